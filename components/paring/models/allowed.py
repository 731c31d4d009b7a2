"""Names that a model may hold without being trusted: layers, functions and operators.

None of them reads or writes files, starts a process, opens a connection, or takes Python
code. What is not listed is refused unless the user trusts the model
(docs/adr/0016-trust.md). The tests compare the lists with the installed libraries, so
that a layer of a new release is looked at before it is added.
"""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


LAYERS = _names(
    """
    AbstractRNNCell Activation ActivityRegularization AdaptiveAveragePooling1D
    AdaptiveAveragePooling2D AdaptiveAveragePooling3D AdaptiveMaxPooling1D
    AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add AddLoss AddMetric AdditiveAttention
    AlphaDropout Attention AugMix AutoContrast Average AveragePooling1D AveragePooling2D
    AveragePooling3D AvgPool1D AvgPool2D AvgPool3D BaseAdaptiveAveragePooling
    BaseAdaptiveMaxPooling BaseAdaptivePooling BaseConv BaseConvTranspose BaseDepthwiseConv
    BaseGlobalPooling BaseImagePreprocessingLayer BasePooling BaseRandomLayer
    BaseSeparableConv BaseSpatialDropout BatchNormalization BatchNormalizationBase
    BatchNormalizationV1 BatchNormalizationV2 Bidirectional CategoryEncoding CenterCrop
    Concatenate ContrastLimitedAdaptiveHistogramEqualization Conv1D Conv1DTranspose Conv2D
    Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM ConvLSTM1D ConvLSTM2D ConvLSTM3D
    ConvLSTMCell Convolution1D Convolution1DTranspose Convolution2D Convolution2DTranspose
    Convolution3D Convolution3DTranspose Cropping1D Cropping2D Cropping3D Cross CuDNNGRU
    CuDNNLSTM CustomScaleLayer CutMix DataLayer Dense DenseFeatures DepthwiseConv1D
    DepthwiseConv2D DeviceWrapper Discretization Dot Dropout DropoutWrapper ELU EinsumDense
    Embedding Equalization Feature FeatureSpace Flatten Functional GRU GRUCell GRUCellV1
    GRUCellV2 GRUV1 GRUV2 GaussianDropout GaussianNoise GlobalAveragePooling1D
    GlobalAveragePooling2D GlobalAveragePooling3D GlobalAvgPool1D GlobalAvgPool2D
    GlobalAvgPool3D GlobalMaxPool1D GlobalMaxPool2D GlobalMaxPool3D GlobalMaxPooling1D
    GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization GroupQueryAttention
    GroupedQueryAttention HashedCrossing Hashing Identity IndexLookup Input InputLayer
    InputSpec IntegerLookup LSTM LSTMCell LSTMCellV1 LSTMCellV2 LSTMV1 LSTMV2 Layer
    LayerNormalization LayerScale LeakyReLU LinearModel LocallyConnected1D
    LocallyConnected2D Masking MaxNumBoundingBoxes MaxPool1D MaxPool2D MaxPool3D
    MaxPooling1D MaxPooling2D MaxPooling3D Maximum MelSpectrogram Merge Minimum MixUp Model
    MultiHeadAttention Multiply Normalization PReLU Permute Pipeline RMSNormalization RNN
    RandAugment RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast
    RandomCrop RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur
    RandomGrayscale RandomHeight RandomHue RandomInvert RandomPerspective
    RandomPosterization RandomRotation RandomSaturation RandomSharpness RandomShear
    RandomTranslation RandomWidth RandomZoom ReLU RepeatVector Rescaling Reshape
    ResidualWrapper Resizing ReversibleEmbedding STFTSpectrogram SeparableConv1D
    SeparableConv2D SeparableConvolution1D SeparableConvolution2D SequenceFeatures
    Sequential SimpleRNN SimpleRNNCell Softmax Solarization SpatialDropout1D
    SpatialDropout2D SpatialDropout3D SpectralNormalization StackedRNNCells StochasticDepth
    StringLookup Subtract SyncBatchNormalization TFDConcat TFDIdentity TextVectorization
    ThresholdedReLU TimeDistributed UnitNormalization UpSampling1D UpSampling2D UpSampling3D
    WideDeepModel Wrapper ZeroPadding1D ZeroPadding2D ZeroPadding3D
    """
)
"""Layers and kinds of models of Keras 3 and tf_keras."""

KERAS_OPERATIONS = _names(
    """
    Abs Absolute AdaptiveAveragePool AdaptiveMaxPool Add AffineTransform All AllClose Amax
    Amin Angle Any Append Arange Arccos Arccosh Arcsin Arcsinh Arctan Arctan2 Arctanh Argmax
    Argmin Argpartition Argsort Array ArraySplit Average AveragePool BatchNorm
    BinaryCrossentropy Bincount BitwiseAnd BitwiseInvert BitwiseLeftShift BitwiseNot
    BitwiseOr BitwiseRightShift BitwiseXor BroadcastTo CDist CTCDecode CTCLoss Cast
    CategoricalCrossentropy Cbrt Ceil Celu Cholesky CholeskyInverse Clip Concatenate Conj
    Conjugate Conv ConvTranspose ConvertToTensor Copy Corrcoef Correlate Cos Cosh
    CountNonzero CropImages Cross Cumprod Cumsum Deg2rad DepthToSpace DepthwiseConv Det Diag
    Diagflat Diagonal Diff Digitize Divide DivideNoNan Dot DotProductAttention Dsplit Dstack
    Eig Eigh Einsum ElasticTransform Elu EmptyLike Equal Erf Erfc Erfinv Exp Exp2 ExpandDims
    Expm1 ExtractPatches ExtractSequences FFT FFT2 Fabs Flip Fliplr Flipud Floor FloorDivide
    Fmax Fmin Fmod Fold Full FullLike GaussianBlur Gcd Gelu Geomspace GetItem Glu Greater
    GreaterEqual HSVToRGB HardShrink HardSigmoid HardSilu HardTanh Heaviside Histogram
    Hsplit Hstack Hypot I0 IFFT2 IRFFT ISTFT Imag InTopK Inner Inv IsIn Isclose Isfinite
    Isinf Isnan Isneginf Isposinf Isreal Kron LayerNorm Lcm Ldexp LeakyRelu LeftShift Less
    LessEqual Linspace Log Log10 Log1p Log2 LogSigmoid LogSoftmax Logaddexp Logaddexp2
    Logdet LogicalAnd LogicalNot LogicalOr LogicalXor Logspace Logsumexp Lstsq LuFactor
    MapCoordinates Matmul MatrixRank Max MaxPool Maximum Mean Median Meshgrid Min Minimum
    Mish Mod Moments Moveaxis MultiHot Multiply NanToNum Nanargmax Nanargmin Nancumprod
    Nancumsum Nanmax Nanmean Nanmedian Nanmin Nanpercentile Nanprod Nanquantile Nanstd
    Nansum Nanvar Ndim Negative Nextafter Nonzero Norm Normalize NotEqual OneHot OnesLike
    Outer PSNR Pad PadImages Percentile PerspectiveTransform Pinv Polar Power Prod Ptp Qr
    Quantile RFFT RGBToGrayscale RGBToHSV RMSNorm Rad2deg Ravel ReLU Real Rearrange
    Reciprocal Relu Relu6 Repeat Reshape Resize RightShift Roll Rot90 Round Rsqrt SSIM STFT
    SVD SaturateCast ScaleAndTranslate Scatter ScatterUpdate SearchSorted SegmentMax
    SegmentMin SegmentProd SegmentReduction SegmentSum Select Selu SeparableConv Sigmoid
    Sign Signbit Silu Sin Sinc Sinh Size Slice SliceUpdate Slogdet SobelEdges SoftShrink
    Softmax Softplus Softsign Solve SolveTriangular Sort SpaceToDepth
    SparseCategoricalCrossentropy SparsePlus SparseSigmoid Sparsemax Split Sqrt Square
    Squareplus Squeeze Stack Std StopGradient Subtract Sum Swapaxes Take TakeAlongAxis Tan
    Tanh TanhShrink Tensordot Threshold Tile TopK Trace Transpose Trapezoid Tril Triu
    TrueDivide Trunc Unfold Unique UnravelIndex Unstack Vander Var Vdot View ViewAsComplex
    ViewAsReal Vsplit Vstack Where ZerosLike
    """
)
"""Operations of Keras 3 between layers, classes of `keras.src.ops`."""

SETTINGS = _names(
    """
    AWQConfig AWQDTypePolicy AbsMaxQuantizer BucketizedColumn Constant Constraint
    CosineDecay CosineDecayRestarts CrossedColumn DTypePolicy DTypePolicyMap EmbeddingColumn
    ExponentialDecay FakeQuantWithMinMaxVars Float8QuantizationConfig FloatDTypePolicy
    GPTQConfig GPTQDTypePolicy GlorotNormal GlorotUniform HashedCategoricalColumn HeNormal
    HeUniform Identity IdentityCategoricalColumn IdentityInitializer IndicatorColumn
    Initializer Int4DTypePolicy Int4QuantizationConfig Int8QuantizationConfig
    InverseTimeDecay L1 L1L2 L2 LearningRateSchedule LecunNormal LecunUniform MaxNorm
    MinMaxNorm NonNeg NumericColumn Ones Orthogonal OrthogonalInitializer
    OrthogonalRegularizer PiecewiseConstantDecay Policy PolicyV1 PolynomialDecay
    QuantizationConfig QuantizedDTypePolicy QuantizedFloat8DTypePolicy Quantizer
    RadialConstraint RandomNormal RandomUniform Regularizer STFT STFTInitializer
    SeedGenerator SequenceCategoricalColumn SequenceDenseColumn SequenceNumericColumn
    SharedEmbeddingColumn TruncatedNormal UnitNorm VarianceScaling
    VocabularyListCategoricalColumn WeightedCategoricalColumn Zeros constant glorot_normal
    glorot_uniform he_normal he_uniform identity l1 l1_l2 l2 lecun_normal lecun_uniform
    max_norm min_max_norm non_neg ones orthogonal orthogonal_regularizer radial_constraint
    random_normal random_uniform stft truncated_normal unit_norm variance_scaling zeros
    """
)
"""Initializers, regularizers, constraints, policies and feature columns of layers."""

JUDGING = _names(
    """
    AUC Accuracy Adadelta Adafactor Adagrad Adam AdamW Adamax BinaryAccuracy
    BinaryCrossentropy BinaryFocalCrossentropy BinaryIoU CTC CategoricalAccuracy
    CategoricalCrossentropy CategoricalFocalCrossentropy CategoricalGeneralizedCrossEntropy
    CategoricalHinge Circle CompileLoss CompileMetrics ConcordanceCorrelation
    CosineSimilarity Dice F1Score FBetaScore FalseNegatives FalsePositives Ftrl Hinge Huber
    IoU KLDivergence Lamb Lion LogCosh LogCoshError Loss LossFunctionWrapper
    LossScaleOptimizer LossesContainer Mean MeanAbsoluteError MeanAbsolutePercentageError
    MeanIoU MeanMetricWrapper MeanRelativeError MeanSquaredError MeanSquaredLogarithmicError
    MeanTensor Metric MetricsContainer MetricsList MultiOptimizer Muon Nadam OneHotIoU
    OneHotMeanIoU Optimizer OptimizerMap PearsonCorrelation Poisson Precision
    PrecisionAtRecall R2Score RMSprop Recall RecallAtPrecision Reduction
    RootMeanSquaredError SGD ScheduleFreeAdamW SensitivityAtSpecificity
    SparseCategoricalAccuracy SparseCategoricalCrossentropy SparseTopKCategoricalAccuracy
    SpecificityAtSensitivity SquaredHinge Sum SumOverBatchSizeMetricWrapper
    TopKCategoricalAccuracy TrueNegatives TruePositives Tversky
    """
)
"""Losses, metrics, optimizers and schedules, which a nested model may bring."""

OPTIMIZATION = _names(
    """
    AllValuesQuantizer ClusterWeights ClusterWeightsMHA ClusterWeightsRNN ConstantSparsity
    Default8BitActivationQuantizeConfig Default8BitConvQuantizeConfig
    Default8BitConvTransposeQuantizeConfig Default8BitOutputQuantizeConfig
    Default8BitQuantizeConfig Default8BitQuantizeConfigRNN
    DefaultNBitActivationQuantizeConfig DefaultNBitConvQuantizeConfig
    DefaultNBitConvTransposeQuantizeConfig DefaultNBitOutputQuantizeConfig
    DefaultNBitQuantizeConfig DefaultNBitQuantizeConfigRNN FixedQuantizeConfig
    FixedQuantizer LastValueQuantizer MovingAverageQuantizer NoOpActivation
    NoOpQuantizeConfig NoQuantizer OutputOnlyConfig PolynomialDecay PruneLowMagnitude
    QuantizeAnnotate QuantizeAwareActivation QuantizeLayer QuantizeWrapper QuantizeWrapperV2
    """
)
"""Classes of tensorflow-model-optimization."""

CLASSES = LAYERS | KERAS_OPERATIONS | SETTINGS | JUDGING | OPTIMIZATION
"""What a configuration may name as a class."""

REGISTERED = _names(
    """
    Custom>Adadelta Custom>Adafactor Custom>Adagrad Custom>Adam Custom>AdamW Custom>Adamax
    Custom>CustomScaleLayer Custom>Ftrl Custom>Lion Custom>Nadam Custom>RMSprop Custom>SGD
    """
)
"""Classes that tf_keras registers under a name of its own."""

_SYMBOLS = {
    "": """
        Assert abs acos acosh add add_n approx_top_k argmax argmin argsort asin asinh
        assert_equal assert_greater assert_less assert_rank atan atan2 atanh audio_microfrontend
        batch_to_space bitcast boolean_mask broadcast_dynamic_shape broadcast_to cast
        clip_by_global_norm clip_by_norm clip_by_value complex concat constant conv
        conv2d_backprop_filter_v2 conv2d_backprop_input_v2 convert_to_tensor cos cosh cumsum
        divide dynamic_partition dynamic_stitch edit_distance eig eigvals einsum ensure_shape
        equal exp expand_dims extract_volume_patches eye fftnd fill fingerprint floor gather
        gather_nd greater greater_equal guarantee_const histogram_fixed_width
        histogram_fixed_width_bins identity identity_n ifftnd irfftnd is_tensor less less_equal
        linspace logical_and logical_not logical_or matmul matrix_square_root maximum meshgrid
        minimum multiply negative norm not_equal one_hot ones ones_like pad parallel_stack pow
        ragged_fill_empty_rows ragged_fill_empty_rows_grad random_index_shuffle range rank
        realdiv reduce_all reduce_any reduce_logsumexp reduce_max reduce_mean reduce_min
        reduce_prod reduce_sum repeat required_space_to_batch_paddings reshape reverse
        reverse_sequence rfftnd roll round saturate_cast scalar_mul scatter_nd searchsorted
        sequence_mask shape shape_n sigmoid sign sin sinh size slice sort space_to_batch
        space_to_batch_nd split sqrt square squeeze stack stop_gradient strided_slice subtract
        tan tanh tensor_scatter_nd_add tensor_scatter_nd_max tensor_scatter_nd_min
        tensor_scatter_nd_sub tensor_scatter_nd_update tensordot tile transpose truediv
        truncatediv truncatemod unique unique_with_counts unravel_index unstack where zeros
        zeros_like
    """,
    "__operators__": """
        add eq getitem ne ragged_getitem
    """,
    "audio": """
        decode_wav encode_wav
    """,
    "bitwise": """
        bitwise_and bitwise_or bitwise_xor invert left_shift right_shift
    """,
    "compat.v1": """
        accumulate_n angle arg_max arg_min batch_gather batch_to_space_nd betainc bincount ceil
        check_numerics cholesky cholesky_solve clip_by_average_norm confusion_matrix conj
        convert_to_tensor_or_indexed_slices convert_to_tensor_or_sparse_tensor count_nonzero
        cross cumprod decode_base64 decode_compressed decode_csv decode_json_example decode_raw
        depth_to_space dequantize deserialize_many_sparse diag diag_part digamma div div_no_nan
        encode_base64 erf erfc expm1 extract_image_patches fake_quant_with_min_max_args
        fake_quant_with_min_max_vars fake_quant_with_min_max_vars_per_channel fft fft2d fft3d
        floor_div floordiv floormod global_norm ifft ifft2d ifft3d igamma igammac imag
        invert_permutation is_finite is_inf is_nan is_non_decreasing is_strictly_increasing
        lbeta lgamma lin_space log log1p log_sigmoid logical_xor matrix_band_part
        matrix_determinant matrix_diag matrix_diag_part matrix_inverse matrix_set_diag
        matrix_solve matrix_solve_ls matrix_transpose matrix_triangular_solve mod multinomial
        parse_example parse_single_example parse_single_sequence_example parse_tensor polygamma
        qr quantize quantize_v2 quantized_concat random_crop random_gamma random_normal
        random_poisson random_shuffle random_uniform real reciprocal reduce_join regex_replace
        reverse_v2 rint rsqrt segment_max segment_mean segment_min segment_prod segment_sum
        self_adjoint_eig self_adjoint_eigvals serialize_many_sparse serialize_sparse
        serialize_tensor setdiff1d space_to_depth sparse_add sparse_concat
        sparse_fill_empty_rows sparse_mask sparse_matmul sparse_maximum sparse_merge
        sparse_minimum sparse_reduce_max sparse_reduce_max_sparse sparse_reduce_sum
        sparse_reduce_sum_sparse sparse_reorder sparse_reset_shape sparse_reshape sparse_retain
        sparse_segment_mean sparse_segment_sqrt_n sparse_segment_sum sparse_slice sparse_softmax
        sparse_split sparse_tensor_dense_matmul sparse_tensor_to_dense sparse_to_dense
        sparse_to_indicator sparse_transpose squared_difference string_join string_split
        string_strip string_to_hash_bucket string_to_hash_bucket_fast
        string_to_hash_bucket_strong string_to_number substr svd tensor_scatter_add
        tensor_scatter_sub tensor_scatter_update to_bfloat16 to_complex128 to_complex64
        to_double to_float to_int32 to_int64 trace truncated_normal unsorted_segment_max
        unsorted_segment_mean unsorted_segment_min unsorted_segment_prod unsorted_segment_sqrt_n
        unsorted_segment_sum verify_tensor_all_finite where_v2 zeta
    """,
    "compat.v1.nn": """
        avg_pool_v2 conv2d_backprop_filter conv2d_backprop_input conv3d_backprop_filter_v2
        ctc_beam_search_decoder_v2 ctc_loss_v2 depthwise_conv2d_native
        depthwise_conv2d_native_backprop_filter depthwise_conv2d_native_backprop_input
        fused_batch_norm log_uniform_candidate_sampler max_pool_v2 quantized_avg_pool
        quantized_conv2d quantized_max_pool quantized_relu_x relu_layer
        softmax_cross_entropy_with_logits_v2 uniform_candidate_sampler xw_plus_b
    """,
    "debugging": """
        Assert assert_all_finite assert_equal assert_greater assert_greater_equal assert_integer
        assert_less assert_less_equal assert_near assert_negative assert_non_negative
        assert_non_positive assert_none_equal assert_positive assert_proper_iterable assert_rank
        assert_rank_at_least assert_rank_in assert_same_float_dtype assert_scalar assert_shapes
        assert_type check_numerics
    """,
    "dtypes": """
        cast complex saturate_cast
    """,
    "experimental.numpy": """
        abs absolute add all allclose amax amin angle any append arange arccos arccosh arcsin
        arcsinh arctan arctan2 arctanh argmax argmin argsort around array array_equal asanyarray
        asarray ascontiguousarray atleast_1d atleast_2d atleast_3d average bitwise_and
        bitwise_not bitwise_or bitwise_xor broadcast_arrays broadcast_to cbrt ceil clip compress
        concatenate conj conjugate copy cos cosh count_nonzero cross cumprod cumsum deg2rad diag
        diag_indices diagflat diagonal diff divide divmod dot dsplit dstack einsum empty
        empty_like equal exp exp2 expand_dims expm1 eye fabs fix flatten flip fliplr flipud
        float_power floor floor_divide full full_like gcd geomspace greater greater_equal
        heaviside hsplit hstack hypot identity imag inner isclose iscomplex iscomplexobj
        isfinite isinf isnan isneginf isposinf isreal isrealobj isscalar ix_ kron lcm less
        less_equal linspace log log10 log1p log2 logaddexp logaddexp2 logical_and logical_not
        logical_or logical_xor logspace matmul max maximum mean meshgrid min minimum mod
        moveaxis multiply nanmean nanprod nansum ndim negative nextafter nonzero not_equal ones
        ones_like outer pad polyval positive power prod ptp rad2deg ravel real reciprocal
        remainder repeat reshape roll rot90 round select shape sign signbit sin sinc sinh size
        sort split sqrt square squeeze stack std subtract sum swapaxes take take_along_axis tan
        tanh tensordot tile trace transpose tri tril triu true_divide vander var vdot vsplit
        vstack where zeros zeros_like
    """,
    "image": """
        adjust_brightness adjust_contrast adjust_gamma adjust_hue adjust_jpeg_quality
        adjust_saturation central_crop combined_non_max_suppression convert_image_dtype
        crop_and_resize crop_to_bounding_box decode_and_crop_jpeg decode_bmp decode_gif
        decode_image decode_jpeg decode_jxl decode_png decode_webp draw_bounding_boxes
        encode_jpeg encode_png extract_glimpse extract_jpeg_shape extract_patches
        flip_left_right flip_up_down generate_bounding_box_proposals grayscale_to_rgb hsv_to_rgb
        image_gradients is_jpeg non_max_suppression non_max_suppression_overlaps
        non_max_suppression_padded non_max_suppression_with_scores pad_to_bounding_box
        per_image_standardization psnr random_brightness random_contrast random_crop
        random_flip_left_right random_flip_up_down random_hue random_jpeg_quality
        random_saturation resize resize_with_crop_or_pad resize_with_pad rgb_to_grayscale
        rgb_to_hsv rgb_to_yiq rgb_to_yuv rot90 sample_distorted_bounding_box sobel_edges ssim
        ssim_multiscale stateless_random_brightness stateless_random_contrast
        stateless_random_crop stateless_random_flip_left_right stateless_random_flip_up_down
        stateless_random_hue stateless_random_jpeg_quality stateless_random_saturation
        stateless_sample_distorted_bounding_box total_variation transpose yiq_to_rgb yuv_to_rgb
    """,
    "io": """
        decode_and_crop_jpeg decode_base64 decode_bmp decode_compressed decode_csv decode_gif
        decode_image decode_jpeg decode_json_example decode_jxl decode_png decode_raw
        decode_webp deserialize_many_sparse encode_base64 encode_jpeg encode_png
        extract_jpeg_shape is_jpeg parse_example parse_sequence_example parse_single_example
        parse_single_sequence_example parse_tensor serialize_many_sparse serialize_sparse
        serialize_tensor
    """,
    "keras.activations": """
        celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh
        leaky_relu linear log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink
        softmax softplus softsign sparse_plus sparse_sigmoid sparsemax squareplus swish tanh
        tanh_shrink threshold
    """,
    "keras.backend": """
        abs all any arange argmax argmin batch_dot batch_flatten batch_normalization bias_add
        binary_crossentropy binary_focal_crossentropy cast cast_to_floatx
        categorical_crossentropy categorical_focal_crossentropy clip concatenate constant conv1d
        conv2d conv2d_transpose conv3d cos ctc_batch_cost ctc_decode ctc_label_dense_to_sparse
        cumprod cumsum depthwise_conv2d dot dropout elu equal exp expand_dims eye flatten gather
        greater greater_equal hard_sigmoid in_top_k int_shape l2_normalize less less_equal
        local_conv1d local_conv2d log max maximum mean min minimum ndim
        normalize_batch_in_training not_equal one_hot ones ones_like permute_dimensions pool2d
        pool3d pow prod random_bernoulli random_binomial random_normal random_uniform relu
        repeat repeat_elements reshape resize_images resize_volumes reverse round
        separable_conv2d shape sigmoid sign sin softmax softplus softsign
        sparse_categorical_crossentropy spatial_2d_padding spatial_3d_padding sqrt square
        squeeze stack std stop_gradient sum tanh temporal_padding tile to_dense transpose
        truncated_normal var zeros zeros_like
    """,
    "keras.layers": """
        add average concatenate dot maximum minimum multiply subtract
    """,
    "keras.losses": """
        KLD MAE MAPE MSE MSLE binary_crossentropy binary_focal_crossentropy
        categorical_crossentropy categorical_focal_crossentropy
        categorical_generalized_cross_entropy categorical_hinge circle cosine_similarity ctc
        dice hinge huber kl_divergence kld kullback_leibler_divergence log_cosh logcosh mae mape
        mean_absolute_error mean_absolute_percentage_error mean_squared_error
        mean_squared_logarithmic_error mse msle poisson sparse_categorical_crossentropy
        squared_hinge tversky
    """,
    "keras.metrics": """
        KLD MAE MAPE MSE MSLE binary_accuracy binary_crossentropy binary_focal_crossentropy
        categorical_accuracy categorical_crossentropy categorical_focal_crossentropy
        categorical_hinge concordance_correlation hinge huber kl_divergence kld
        kullback_leibler_divergence log_cosh logcosh mae mape mean_absolute_error
        mean_absolute_percentage_error mean_squared_error mean_squared_logarithmic_error mse
        msle pearson_correlation poisson sparse_categorical_accuracy
        sparse_categorical_crossentropy sparse_top_k_categorical_accuracy squared_hinge
        top_k_categorical_accuracy
    """,
    "linalg": """
        adjoint band_part banded_triangular_solve cholesky cholesky_solve cross det diag
        diag_part eig eigh eigh_tridiagonal eigvals eigvalsh einsum expm eye global_norm inv
        l2_normalize logdet logm lstsq lu lu_matrix_inverse lu_reconstruct lu_solve matmul
        matrix_rank matrix_transpose matvec norm normalize pinv qr set_diag slogdet solve sqrtm
        svd tensor_diag tensor_diag_part tensordot trace triangular_solve tridiagonal_matmul
        tridiagonal_solve
    """,
    "linalg.experimental": """

    """,
    "math": """
        abs accumulate_n acos acosh add add_n angle approx_max_k approx_min_k argmax argmin asin
        asinh atan atan2 atanh bessel_i0 bessel_i0e bessel_i1 bessel_i1e betainc bincount ceil
        confusion_matrix conj cos cosh count_nonzero cumprod cumsum cumulative_logsumexp digamma
        divide divide_no_nan equal erf erfc erfcinv erfinv exp expm1 floor floordiv floormod
        greater greater_equal igamma igammac imag in_top_k invert_permutation is_finite is_inf
        is_nan is_non_decreasing is_strictly_increasing l2_normalize lbeta less less_equal
        lgamma log log1p log_sigmoid log_softmax logical_and logical_not logical_or logical_xor
        maximum minimum mod multiply multiply_no_nan ndtri negative nextafter not_equal
        polygamma polyval pow real reciprocal reciprocal_no_nan reduce_all reduce_any
        reduce_euclidean_norm reduce_logsumexp reduce_max reduce_mean reduce_min reduce_prod
        reduce_std reduce_sum reduce_variance rint round rsqrt scalar_mul segment_max
        segment_mean segment_min segment_prod segment_sum sigmoid sign sin sinh sobol_sample
        softmax softplus softsign sqrt square squared_difference subtract tan tanh top_k truediv
        unsorted_segment_max unsorted_segment_mean unsorted_segment_min unsorted_segment_prod
        unsorted_segment_sqrt_n unsorted_segment_sum xdivy xlog1py xlogy zero_fraction zeta
    """,
    "math.special": """
        bessel_i0 bessel_i0e bessel_i1 bessel_i1e bessel_j0 bessel_j1 bessel_k0 bessel_k0e
        bessel_k1 bessel_k1e bessel_y0 bessel_y1 dawsn expint fresnel_cos fresnel_sin spence
    """,
    "nn": """
        all_candidate_sampler approx_max_k approx_min_k atrous_conv2d atrous_conv2d_transpose
        avg_pool avg_pool1d avg_pool2d avg_pool3d batch_norm_with_global_normalization
        batch_normalization bias_add collapse_repeated compute_accidental_hits
        compute_average_loss conv1d conv1d_transpose conv2d conv2d_transpose conv3d
        conv3d_transpose conv_transpose convolution crelu ctc_beam_search_decoder
        ctc_greedy_decoder ctc_loss ctc_unique_labels depth_to_space depthwise_conv2d
        depthwise_conv2d_backprop_filter depthwise_conv2d_backprop_input dilation2d dropout elu
        embedding_lookup embedding_lookup_sparse erosion2d
        fractional_avg_pool fractional_max_pool gelu in_top_k isotonic_regression l2_loss
        l2_normalize leaky_relu learned_unigram_candidate_sampler local_response_normalization
        log_poisson_loss log_softmax lrn max_pool max_pool1d max_pool2d max_pool3d
        max_pool_with_argmax moments nce_loss normalize_moments pool relu relu6
        safe_embedding_lookup_sparse sampled_softmax_loss selu separable_conv2d sigmoid
        sigmoid_cross_entropy_with_logits silu softmax softmax_cross_entropy_with_logits
        softplus softsign space_to_batch space_to_depth sparse_softmax_cross_entropy_with_logits
        sufficient_statistics swish tanh top_k weighted_cross_entropy_with_logits
        weighted_moments with_space_to_batch zero_fraction
    """,
    "nn.experimental": """
        general_dropout stateless_dropout
    """,
    "quantization": """
        dequantize fake_quant_with_min_max_args fake_quant_with_min_max_args_gradient
        fake_quant_with_min_max_vars fake_quant_with_min_max_vars_gradient
        fake_quant_with_min_max_vars_per_channel
        fake_quant_with_min_max_vars_per_channel_gradient quantize quantize_and_dequantize
        quantize_and_dequantize_v2 quantized_concat
    """,
    "ragged": """
        boolean_mask constant cross cross_hashed range row_splits_to_segment_ids
        segment_ids_to_row_splits stack stack_dynamic_partitions
    """,
    "random": """
        all_candidate_sampler categorical fold_in gamma
        learned_unigram_candidate_sampler log_uniform_candidate_sampler normal poisson shuffle
        split stateless_binomial stateless_categorical stateless_gamma stateless_normal
        stateless_parameterized_truncated_normal stateless_poisson stateless_truncated_normal
        stateless_uniform truncated_normal uniform uniform_candidate_sampler
    """,
    "random.experimental": """
        index_shuffle stateless_fold_in stateless_shuffle stateless_split
    """,
    "sets": """
        difference intersection size union
    """,
    "signal": """
        dct fft fft2d fft3d fftnd fftshift frame hamming_window hann_window idct ifft ifft2d
        ifft3d ifftnd ifftshift inverse_mdct inverse_stft inverse_stft_window_fn irfft irfft2d
        irfft3d irfftnd kaiser_bessel_derived_window kaiser_window linear_to_mel_weight_matrix
        mdct mfccs_from_log_mel_spectrograms overlap_and_add rfft rfft2d rfft3d rfftnd stft
        vorbis_window
    """,
    "sparse": """
        add bincount concat cross cross_hashed expand_dims eye fill_empty_rows from_dense mask
        maximum minimum reduce_max reduce_sum reorder reset_shape reshape retain sampled_addmm
        segment_mean segment_sqrt_n segment_sum slice softmax sparse_dense_matmul split to_dense
        to_indicator transpose
    """,
    "strings": """
        as_string bytes_split format join length lower ngrams reduce_join regex_full_match
        regex_replace split strip substr to_hash_bucket to_hash_bucket_fast
        to_hash_bucket_strong to_number unicode_decode unicode_decode_with_offsets
        unicode_encode unicode_script unicode_split unicode_split_with_offsets unicode_transcode
        unsorted_segment_join upper
    """,
}

SYMBOLS = frozenset(
    f"{space}.{name}".lstrip(".") for space, text in _SYMBOLS.items() for name in text.split()
)
"""Functions of TensorFlow and Keras that a layer TFOpLambda may call."""

FUNCTIONS = frozenset(name.rpartition(".")[2] for name in SYMBOLS)
"""What a configuration may name as a function, such as an activation."""

ATTRIBUTES = _names(
    """
    bounding_shape dense_shape flat_values indices merge_dims nested_row_lengths
    nested_row_splits nested_value_rowids nrows row_lengths row_limits row_splits row_starts
    to_sparse to_tensor value_rowids values with_flat_values with_row_splits_dtype
    with_values
    """
)
"""Properties and methods of ragged and sparse tensors."""

RAGGED_METHODS = _names(
    """
    from_nested_row_lengths from_nested_row_splits from_nested_value_rowids from_row_lengths
    from_row_limits from_row_splits from_row_starts from_sparse from_tensor
    from_uniform_row_length from_value_rowids
    """
)
"""Class methods of tf.RaggedTensor."""

OPERATORS = _names(
    """
    Abs AccumulateNV2 Acos Acosh Add AddManySparseToTensorsMap AddN AddSparseToTensorsMap
    AddV2 AdjustContrast AdjustContrastv2 AdjustHue AdjustSaturation All AllCandidateSampler
    Angle AnonymousHashTable AnonymousMutableDenseHashTable AnonymousMutableHashTable
    AnonymousMutableHashTableOfTensors Any ApplyAdaMax ApplyAdadelta ApplyAdagrad
    ApplyAdagradDA ApplyAdagradV2 ApplyAdam ApplyAddSign ApplyCenteredRMSProp ApplyFtrl
    ApplyFtrlV2 ApplyGradientDescent ApplyMomentum ApplyPowerSign ApplyProximalAdagrad
    ApplyProximalGradientDescent ApplyRMSProp ApproxTopK ApproximateEqual ArgMax ArgMin
    AsString Asin Asinh Assert Assign AssignAdd AssignAddVariableOp AssignSub
    AssignSubVariableOp AssignVariableOp Atan Atan2 Atanh AudioMicrofrontend
    AudioSpectrogram AudioSummary AudioSummaryV2 AvgPool AvgPool3D AvgPool3DGrad AvgPoolGrad
    BandedTriangularSolve BatchCholesky BatchCholeskyGrad BatchDatasetV2 BatchFFT BatchFFT2D
    BatchFFT3D BatchFunction BatchIFFT BatchIFFT2D BatchIFFT3D BatchMatMul BatchMatMulV2
    BatchMatMulV3 BatchMatrixBandPart BatchMatrixDeterminant BatchMatrixDiag
    BatchMatrixDiagPart BatchMatrixInverse BatchMatrixSetDiag BatchMatrixSolve
    BatchMatrixSolveLs BatchMatrixTriangularSolve BatchNormWithGlobalNormalization
    BatchNormWithGlobalNormalizationGrad BatchSelfAdjointEig BatchSelfAdjointEigV2 BatchSvd
    BatchToSpace BatchToSpaceND BesselI0 BesselI0e BesselI1 BesselI1e BesselJ0 BesselJ1
    BesselK0 BesselK0e BesselK1 BesselK1e BesselY0 BesselY1 Betainc BiasAdd BiasAddGrad
    BiasAddV1 Bincount Bitcast BitwiseAnd BitwiseOr BitwiseXor BlockLSTM BlockLSTMGrad
    BlockLSTMGradV2 BlockLSTMV2 BroadcastArgs BroadcastGradientArgs BroadcastTo Bucketize
    CSRSparseMatrixComponents CSRSparseMatrixToDense CSRSparseMatrixToSparseTensor
    CTCBeamSearchDecoder CTCGreedyDecoder CTCLoss CTCLossV2 Case Cast Ceil CheckNumerics
    CheckNumericsV2 Cholesky CholeskyGrad ClipByValue CombinedNonMaxSuppression Complex
    ComplexAbs CompositeTensorVariantFromComponents CompositeTensorVariantToComponents
    ComputeAccidentalHits Concat ConcatOffset ConcatV2 ConcatenateDataset Conj
    ConjugateTranspose Const ControlTrigger Conv Conv2D Conv2DBackpropFilter
    Conv2DBackpropFilterV2 Conv2DBackpropInput Conv2DBackpropInputV2 Conv3D
    Conv3DBackpropFilter Conv3DBackpropFilterV2 Conv3DBackpropInput Conv3DBackpropInputV2
    Cos Cosh CountUpTo CreateTRTResourceHandle CropAndResize CropAndResizeGradBoxes
    CropAndResizeGradImage Cross CudnnRNN CudnnRNNBackprop CudnnRNNBackpropV2
    CudnnRNNBackpropV3 CudnnRNNCanonicalToParams CudnnRNNCanonicalToParamsV2
    CudnnRNNParamsSize CudnnRNNParamsToCanonical CudnnRNNParamsToCanonicalV2 CudnnRNNV2
    CudnnRNNV3 Cumprod Cumsum CumulativeLogsumexp DataFormatDimMap DataFormatVecPermute
    Dawsn DecodeAndCropJpeg DecodeBase64 DecodeBmp DecodeCSV DecodeCompressed DecodeGif
    DecodeImage DecodeJSONExample DecodeJpeg DecodeJxl DecodePaddedRaw DecodePng DecodeRaw
    DecodeWav DecodeWebP DeepCopy DenseBincount DenseCountSparseOutput
    DenseToCSRSparseMatrix DenseToDenseSetOperation DenseToSparseSetOperation DepthToSpace
    DepthwiseConv2dNative DepthwiseConv2dNativeBackpropFilter
    DepthwiseConv2dNativeBackpropInput Dequantize DeserializeManySparse DeserializeSparse
    DestroyResourceOp DestroyTemporaryVariable DeviceIndex Diag DiagPart Digamma Dilation2D
    Dilation2DBackpropFilter Dilation2DBackpropInput DisableCopyOnRead Div DivNoNan
    DrawBoundingBoxes DrawBoundingBoxesV2 DynamicPartition DynamicStitch EditDistance Eig
    Einsum Elu EluGrad Empty EmptyTensorList EmptyTensorMap EncodeBase64 EncodeJpeg
    EncodeJpegVariableQuality EncodePng EncodeWav EnsureShape Enter Equal Erf Erfc Erfinv
    EuclideanNorm Exit Exp ExpandDims Expint Expm1 ExtractGlimpse ExtractGlimpseV2
    ExtractImagePatches ExtractJpegShape ExtractVolumePatches FFT FFT2D FFT3D FFTND
    FakeParam FakeQuantWithMinMaxArgs FakeQuantWithMinMaxArgsGradient
    FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsGradient
    FakeQuantWithMinMaxVarsPerChannel FakeQuantWithMinMaxVarsPerChannelGradient Fill
    FilterDataset Fingerprint FlatMapDataset Floor FloorDiv FloorMod For FractionalAvgPool
    FractionalAvgPoolGrad FractionalMaxPool FractionalMaxPoolGrad FresnelCos FresnelSin
    FusedBatchNorm FusedBatchNormGrad FusedBatchNormGradV2 FusedBatchNormGradV3
    FusedBatchNormV2 FusedBatchNormV3 FusedPadConv2D FusedResizeAndPadConv2D GRUBlockCell
    GRUBlockCellGrad Gather GatherNd GatherV2 GenerateBoundingBoxProposals Greater
    GreaterEqual GuaranteeConst HSVToRGB HashTable HashTableV2 HistogramFixedWidth
    HistogramSummary HostConst IFFT IFFT2D IFFT3D IFFTND IRFFT IRFFT2D IRFFT3D IRFFTND
    Identity IdentityN If Igamma IgammaGradA Igammac Imag ImageProjectiveTransformV2
    ImageProjectiveTransformV3 ImageSummary InTopK InTopKV2 InitializeTable
    InitializeTableV2 InplaceAdd InplaceSub InplaceUpdate Inv InvGrad Invert
    InvertPermutation IsBoostedTreesEnsembleInitialized
    IsBoostedTreesQuantileStreamResourceInitialized IsFinite IsInf IsNan
    IsTensorFloat32Enabled IsVariableInitialized IsotonicRegression KthOrderStatistic L2Loss
    LRN LRNGrad LSTMBlockCell LSTMBlockCellGrad LeakyRelu LeakyReluGrad
    LearnedUnigramCandidateSampler LeftShift Less LessEqual Lgamma LinSpace ListDiff Log
    Log1p LogMatrixDeterminant LogSoftmax LogUniformCandidateSampler LogicalAnd LogicalNot
    LogicalOr LookupTableExport LookupTableExportV2 LookupTableFind LookupTableFindV2
    LookupTableImport LookupTableImportV2 LookupTableInsert LookupTableInsertV2
    LookupTableRemoveV2 LookupTableSize LookupTableSizeV2 LoopCond LowerBound Lu MakeUnique
    MapDataset MapDefun MatMul MatrixBandPart MatrixDeterminant MatrixDiag MatrixDiagPart
    MatrixDiagPartV2 MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3 MatrixExponential
    MatrixInverse MatrixLogarithm MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 MatrixSolve
    MatrixSolveLs MatrixSquareRoot MatrixTriangularSolve Max MaxPool MaxPool3D MaxPool3DGrad
    MaxPool3DGradGrad MaxPoolGrad MaxPoolGradGrad MaxPoolGradGradV2
    MaxPoolGradGradWithArgmax MaxPoolGradV2 MaxPoolGradWithArgmax MaxPoolV2
    MaxPoolWithArgmax Maximum Mean Merge MergeSummary Mfcc Min Minimum MirrorPad
    MirrorPadGrad Mod ModelDataset Mul MulNoNan Multinomial MutableDenseHashTable
    MutableDenseHashTableV2 MutableHashTable MutableHashTableOfTensors
    MutableHashTableOfTensorsV2 MutableHashTableV2 Ndtri Neg NextAfter NextIteration NoOp
    NonDeterministicInts NonMaxSuppression NonMaxSuppressionV2 NonMaxSuppressionV3
    NonMaxSuppressionV4 NonMaxSuppressionV5 NonMaxSuppressionWithOverlaps NotEqual
    NthElement OneHot OnesLike OptionalFromValue OptionalGetValue OptionalHasValue
    OptionalNone OptionsDataset Pack Pad PadV2 ParallelConcat ParallelDynamicStitch
    ParallelMapDatasetV2 ParameterizedTruncatedNormal ParseExample ParseExampleV2
    ParseSequenceExample ParseSequenceExampleV2 ParseSingleExample
    ParseSingleSequenceExample ParseTensor PartitionedCall Placeholder PlaceholderV2
    PlaceholderWithDefault Polygamma PopulationCount Pow PrefetchDataset Prelinearize
    PrelinearizeTuple PreventGradient Print PrintV2 Prod Qr QuantizeAndDequantize
    QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4
    QuantizeAndDequantizeV4Grad QuantizeDownAndShrinkRange QuantizeV2 QuantizedAdd
    QuantizedAvgPool QuantizedBatchNormWithGlobalNormalization QuantizedBiasAdd
    QuantizedConcat QuantizedConcatV2 QuantizedConv2D QuantizedConv2DAndRelu
    QuantizedConv2DAndReluAndRequantize QuantizedConv2DAndRequantize
    QuantizedConv2DPerChannel QuantizedConv2DWithBias QuantizedConv2DWithBiasAndRelu
    QuantizedConv2DWithBiasAndReluAndRequantize QuantizedConv2DWithBiasAndRequantize
    QuantizedConv2DWithBiasSignedSumAndReluAndRequantize QuantizedConv2DWithBiasSumAndRelu
    QuantizedConv2DWithBiasSumAndReluAndRequantize QuantizedDepthwiseConv2D
    QuantizedDepthwiseConv2DWithBias QuantizedDepthwiseConv2DWithBiasAndRelu
    QuantizedDepthwiseConv2DWithBiasAndReluAndRequantize QuantizedInstanceNorm
    QuantizedMatMul QuantizedMatMulWithBias QuantizedMatMulWithBiasAndDequantize
    QuantizedMatMulWithBiasAndRelu QuantizedMatMulWithBiasAndReluAndRequantize
    QuantizedMatMulWithBiasAndRequantize QuantizedMaxPool QuantizedMul QuantizedRelu
    QuantizedRelu6 QuantizedReluX QuantizedReshape QuantizedResizeBilinear RFFT RFFT2D
    RFFT3D RFFTND RGBToHSV RaggedBincount RaggedCountSparseOutput RaggedCross
    RaggedFillEmptyRows RaggedFillEmptyRowsGrad RaggedGather RaggedRange
    RaggedTensorFromVariant RaggedTensorToSparse RaggedTensorToTensor RaggedTensorToVariant
    RaggedTensorToVariantGradient RandomCrop RandomGamma RandomGammaGrad RandomIndexShuffle
    RandomPoisson RandomPoissonV2 RandomShuffle RandomStandardNormal RandomUniform
    RandomUniformInt Range RangeDataset Rank ReadVariableOp Real RealDiv Reciprocal
    ReciprocalGrad ReduceDataset ReduceJoin RefEnter RefExit RefIdentity RefMerge
    RefNextIteration RefSelect RefSwitch RegexFullMatch RegexReplace Relu Relu6 Relu6Grad
    ReluGrad RepeatDataset RequantizationRange RequantizationRangePerChannel Requantize
    RequantizePerChannel Reshape ResizeArea ResizeBicubic ResizeBicubicGrad ResizeBilinear
    ResizeBilinearGrad ResizeNearestNeighbor ResizeNearestNeighborGrad ResourceApplyAdaMax
    ResourceApplyAdadelta ResourceApplyAdagrad ResourceApplyAdagradDA ResourceApplyAdagradV2
    ResourceApplyAdam ResourceApplyAdamWithAmsgrad ResourceApplyAddSign
    ResourceApplyCenteredRMSProp ResourceApplyFtrl ResourceApplyFtrlV2
    ResourceApplyGradientDescent ResourceApplyKerasMomentum ResourceApplyMomentum
    ResourceApplyPowerSign ResourceApplyProximalAdagrad ResourceApplyProximalGradientDescent
    ResourceApplyRMSProp ResourceCountUpTo ResourceGather ResourceGatherNd
    ResourceScatterAdd ResourceScatterDiv ResourceScatterMax ResourceScatterMin
    ResourceScatterMul ResourceScatterNdAdd ResourceScatterNdMax ResourceScatterNdMin
    ResourceScatterNdSub ResourceScatterNdUpdate ResourceScatterSub ResourceScatterUpdate
    ResourceSparseApplyAdadelta ResourceSparseApplyAdagrad ResourceSparseApplyAdagradDA
    ResourceSparseApplyAdagradV2 ResourceSparseApplyCenteredRMSProp ResourceSparseApplyFtrl
    ResourceSparseApplyFtrlV2 ResourceSparseApplyKerasMomentum ResourceSparseApplyMomentum
    ResourceSparseApplyProximalAdagrad ResourceSparseApplyProximalGradientDescent
    ResourceSparseApplyRMSProp ResourceStridedSliceAssign Reverse ReverseSequence ReverseV2
    RightShift Rint RngReadAndSkip RngSkip Roll Round Rsqrt RsqrtGrad
    SampleDistortedBoundingBox SampleDistortedBoundingBoxV2 ScalarSummary ScaleAndTranslate
    ScaleAndTranslateGrad ScatterAdd ScatterDiv ScatterMax ScatterMin ScatterMul ScatterNd
    ScatterNdAdd ScatterNdMax ScatterNdMin ScatterNdNonAliasingAdd ScatterNdSub
    ScatterNdUpdate ScatterSub ScatterUpdate SegmentMax SegmentMaxV2 SegmentMean SegmentMin
    SegmentMinV2 SegmentProd SegmentProdV2 SegmentSum SegmentSumV2 Select SelectV2
    SelfAdjointEig SelfAdjointEigV2 Selu SeluGrad SerializeManySparse SerializeSparse
    SerializeTensor SetSize Shape ShapeN Sigmoid SigmoidGrad Sign Sin Sinh Size SkipDataset
    Slice Snapshot SobolSample Softmax SoftmaxCrossEntropyWithLogits Softplus SoftplusGrad
    Softsign SoftsignGrad SpaceToBatch SpaceToBatchND SpaceToDepth SparseAdd SparseAddGrad
    SparseApplyAdadelta SparseApplyAdagrad SparseApplyAdagradDA SparseApplyAdagradV2
    SparseApplyCenteredRMSProp SparseApplyFtrl SparseApplyFtrlV2 SparseApplyMomentum
    SparseApplyProximalAdagrad SparseApplyProximalGradientDescent SparseApplyRMSProp
    SparseBincount SparseConcat SparseCountSparseOutput SparseCross SparseCrossHashed
    SparseCrossV2 SparseDenseCwiseAdd SparseDenseCwiseDiv SparseDenseCwiseMul
    SparseFillEmptyRows SparseFillEmptyRowsGrad SparseMatMul SparseMatrixAdd
    SparseMatrixMatMul SparseMatrixMul SparseMatrixNNZ SparseMatrixOrderingAMD
    SparseMatrixSoftmax SparseMatrixSoftmaxGrad SparseMatrixSparseCholesky
    SparseMatrixSparseMatMul SparseMatrixTranspose SparseMatrixZeros SparseReduceMax
    SparseReduceMaxSparse SparseReduceSum SparseReduceSumSparse SparseReorder SparseReshape
    SparseSegmentMean SparseSegmentMeanGrad SparseSegmentMeanGradV2
    SparseSegmentMeanWithNumSegments SparseSegmentSqrtN SparseSegmentSqrtNGrad
    SparseSegmentSqrtNGradV2 SparseSegmentSqrtNWithNumSegments SparseSegmentSum
    SparseSegmentSumGrad SparseSegmentSumGradV2 SparseSegmentSumWithNumSegments SparseSlice
    SparseSliceGrad SparseSoftmax SparseSoftmaxCrossEntropyWithLogits SparseSparseMaximum
    SparseSparseMinimum SparseSplit SparseTensorDenseAdd SparseTensorDenseMatMul
    SparseTensorToCSRSparseMatrix SparseToDense SparseToSparseSetOperation Spence Split
    SplitV Sqrt SqrtGrad Square SquaredDifference Squeeze Stack StackClose StackCloseV2
    StackPop StackPopV2 StackPush StackPushV2 StackV2 StatefulPartitionedCall
    StatefulRandomBinomial StatefulStandardNormal StatefulStandardNormalV2
    StatefulTruncatedNormal StatefulUniform StatefulUniformFullInt StatefulUniformInt
    StatelessCase StatelessIf StatelessMultinomial StatelessParameterizedTruncatedNormal
    StatelessRandomBinomial StatelessRandomGammaV2 StatelessRandomGammaV3
    StatelessRandomGetAlg StatelessRandomGetKeyCounter StatelessRandomGetKeyCounterAlg
    StatelessRandomNormal StatelessRandomNormalV2 StatelessRandomPoisson
    StatelessRandomUniform StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2
    StatelessRandomUniformInt StatelessRandomUniformIntV2 StatelessRandomUniformV2
    StatelessSampleDistortedBoundingBox StatelessShuffle StatelessTruncatedNormal
    StatelessTruncatedNormalV2 StatelessWhile StaticRegexFullMatch StaticRegexReplace
    StochasticCastToInt StopGradient StridedSlice StridedSliceAssign StridedSliceGrad
    StringFormat StringJoin StringLength StringLower StringNGrams StringSplit StringSplitV2
    StringStrip StringToHashBucket StringToHashBucketFast StringToHashBucketStrong
    StringToNumber StringUpper Sub Substr Sum Svd Switch SymbolicGradient
    TakeDataset TakeManySparseFromTensorsMap Tan Tanh TanhGrad TemporaryVariable TensorArray
    TensorArrayClose TensorArrayCloseV2 TensorArrayCloseV3 TensorArrayConcat
    TensorArrayConcatV2 TensorArrayConcatV3 TensorArrayGather TensorArrayGatherV2
    TensorArrayGatherV3 TensorArrayGrad TensorArrayGradV2 TensorArrayGradV3
    TensorArrayGradWithShape TensorArrayPack TensorArrayRead TensorArrayReadV2
    TensorArrayReadV3 TensorArrayScatter TensorArrayScatterV2 TensorArrayScatterV3
    TensorArraySize TensorArraySizeV2 TensorArraySizeV3 TensorArraySplit TensorArraySplitV2
    TensorArraySplitV3 TensorArrayUnpack TensorArrayV2 TensorArrayV3 TensorArrayWrite
    TensorArrayWriteV2 TensorArrayWriteV3 TensorDataset TensorListConcat
    TensorListConcatLists TensorListConcatV2 TensorListElementShape TensorListFromTensor
    TensorListGather TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack
    TensorListPushBackBatch TensorListReserve TensorListResize TensorListScatter
    TensorListScatterIntoExistingList TensorListScatterV2 TensorListSetItem TensorListSplit
    TensorListStack TensorMapErase TensorMapHasKey TensorMapInsert TensorMapLookup
    TensorMapSize TensorMapStackKeys TensorScatterAdd TensorScatterMax TensorScatterMin
    TensorScatterSub TensorScatterUpdate TensorSliceDataset TensorStridedSliceUpdate
    TensorSummary TensorSummaryV2 ThreadUnsafeUnigramCandidateSampler Tile TileGrad
    Timestamp ToBool TopK TopKUnique TopKV2 TopKWithUnique Transpose TridiagonalMatMul
    TridiagonalSolve TruncateDiv TruncateMod TruncatedNormal UncompressElement UnicodeDecode
    UnicodeDecodeWithOffsets UnicodeEncode UnicodeScript UnicodeTranscode
    UniformCandidateSampler UniformDequantize UniformQuantize UniformQuantizedAdd
    UniformQuantizedClipByValue UniformQuantizedConvolution
    UniformQuantizedConvolutionHybrid UniformQuantizedDot UniformQuantizedDotHybrid
    UniformRequantize Unique UniqueV2 UniqueWithCounts UniqueWithCountsV2 Unpack
    UnravelIndex UnsortedSegmentJoin UnsortedSegmentMax UnsortedSegmentMin
    UnsortedSegmentProd UnsortedSegmentSum UpperBound VarHandleOp VarIsInitializedOp
    Variable VariableShape VariableV2 Where While Xdivy XlaBroadcastHelper XlaCallModule
    XlaClusterOutput XlaConv XlaConvV2 XlaDequantize XlaDot XlaDotV2 XlaDynamicSlice
    XlaDynamicUpdateSlice XlaEinsum XlaGather XlaIf XlaKeyValueSort XlaLaunch XlaLaunchV2
    XlaOptimizationBarrier XlaPad XlaReduce XlaReducePrecision XlaReduceScatter
    XlaReduceWindow XlaRemoveDynamicDimensionSize XlaReplicaId XlaRngBitGenerator XlaScatter
    XlaSelectAndScatter XlaSelfAdjointEig XlaSetBound XlaSetDynamicDimensionSize XlaSharding
    XlaSort XlaSpmdFullToShardShape XlaSpmdShardToFullShape XlaSvd XlaVariadicReduce
    XlaVariadicReduceV2 XlaVariadicSort XlaWhile Xlog1py Xlogy ZerosLike Zeta ZipDataset
    _Arg _ArrayToList _EagerConst _FusedBatchNormEx _FusedBatchNormGradEx _FusedConv2D
    _FusedConv3D _FusedDepthwiseConv2dNative _FusedMatMul _If _ListToArray _QuantizedMatMul
    _QuantizedMaxPool3D _Retval _SwitchN _TensorToHashBucketFast _UnaryOpsComposition _While
    """
)
"""Operators of TensorFlow that a graph may hold."""
