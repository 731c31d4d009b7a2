// Command pause does nothing: until it is told to end, and so holds a pod's namespaces, or
// for as long as its first argument says ("20s").
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGINT, syscall.SIGTERM)
	var over <-chan time.Time
	if len(os.Args) > 1 {
		wait, err := time.ParseDuration(os.Args[1])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		over = time.After(wait)
	}
	select {
	case <-told:
	case <-over:
		fmt.Println("ended after", os.Args[1])
	}
}
