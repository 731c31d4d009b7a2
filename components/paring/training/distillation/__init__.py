"""Knowledge distillation into student networks."""
