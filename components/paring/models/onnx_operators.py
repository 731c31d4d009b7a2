"""Operators that an ONNX file may hold without being trusted.

They are those of ONNX itself, and of ONNX Runtime without what runs other code: EPContext
hands a compiled program of a device to that device's library, and Snpe loads one. TensorRT's
plugins are such code too. The tests compare the lists with the installed libraries.
"""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


OPERATORS = {
    "": _names(
        """
        Abs Acos Acosh Add Affine AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention
        AveragePool BatchNormalization Bernoulli BitCast BitShift BitwiseAnd BitwiseNot
        BitwiseOr BitwiseXor BlackmanWindow Cast CastLike CausalConvWithState Ceil Celu
        CenterCropPad Clip Col2Im Compress Concat ConcatFromSequence Constant ConstantOfShape
        Conv ConvInteger ConvTranspose Cos Cosh Crop CumProd CumSum DFT DeformConv DepthToSpace
        DequantizeLinear Det Div Dropout DynamicQuantizeLinear DynamicSlice Einsum Elu Equal Erf
        Exp Expand EyeLike Flatten Floor GRU GRUUnit Gather GatherElements GatherND Gelu Gemm
        GivenTensorFill GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual
        GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax
        Identity If ImageDecoder ImageScaler InstanceNormalization IsInf IsNaN LRN LSTM
        LayerNormalization LeakyRelu Less LessOrEqual LinearAttention Log LogSoftmax Loop
        LpNormalization LpPool MatMul MatMulInteger Max MaxPool MaxRoiPool MaxUnpool Mean
        MeanVarianceNormalization MelWeightMatrix MemcpyFromHost MemcpyToHost Min Mish Mod Mul
        Multinomial Neg NegativeLogLikelihoodLoss NonMaxSuppression NonZero Not OneHot Optional
        OptionalGetElement OptionalHasElement Or PRelu Pad ParametricSoftplus Pow QLinearConv
        QLinearMatMul QuantizeLinear RMSNormalization RNN RandomNormal RandomNormalLike
        RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
        ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
        RegexFullMatch Relu Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round STFT
        Scale ScaledTanh Scan Scatter ScatterElements ScatterND Selu SequenceAt
        SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap
        Shape Shrink Sigmoid Sign SimplifiedLayerNormalization Sin Sinh Size Slice Softmax
        SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split SplitToSequence Sqrt
        Squeeze StringConcat StringNormalizer StringSplit Sub Sum SwiGLU Swish Tan Tanh
        TensorScatter TfIdfVectorizer ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze
        Upsample Where Xor
        """
    ),
    "ai.onnx.ml": _names(
        """
        ArrayFeatureExtractor Binarizer CastMap CategoryMapper DictVectorizer FeatureVectorizer
        Imputer LabelEncoder LinearClassifier LinearRegressor Normalizer OneHotEncoder
        SVMClassifier SVMRegressor Scaler TreeEnsemble TreeEnsembleClassifier
        TreeEnsembleRegressor ZipMap
        """
    ),
    "ai.onnx.preview": _names(
        """
        FlexAttention
        """
    ),
    "ai.onnx.preview.training": _names(
        """
        Adagrad Adam Gradient Momentum
        """
    ),
    "com.microsoft": _names(
        """
        Attention AttnLSTM BeamSearch BiasAdd BiasDropout BiasGelu BiasSoftmax BiasSplitGelu
        BifurcationDetector BitmaskBiasDropout BitmaskDropout BranchwiseRMSNorm CDist
        CausalConvWithState ComplexMul ComplexMulConj ConvStateReplay
        ConvTransposeWithDynamicPads CropAndResize DecoderAttention
        DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention DequantizeBFP
        DequantizeLinear DequantizeWithOrder DynamicQuantizeLSTM DynamicQuantizeMatMul
        DynamicSparseAttention DynamicTimeWarping EmbedLayerNormalization EngramGate ExpandDims
        FastGelu FusedConv FusedGemm FusedMatMul FusedMatMulActivation GatedAdd GatedDeltaNet
        GatedDeltaNetStateReplay GatedRMSNorm GatedRelativePositionBias GatherBlockQuantized
        GatherND GatherPacked Gelu GemmFastGelu GemmFloat8 GemmaRotaryEmbedding GreedySearch
        GridSample GroupNorm GroupQueryAttention HyperConnectionLowRankMix
        HyperConnectionPostMix HyperConnectionPreMix Inverse Irfft IsAllFinite LinearAttention
        LinearAttentionGate LongformerAttention MRotaryEmbedding Mamba2Verify
        MatMulBlockQuantizedFp4Weight MatMulBlockQuantizedFp8Weight MatMulBnb4 MatMulFpQ4
        MatMulInteger16 MatMulIntegerToFloat MatMulNBits MatMulNBitsMlp MatMulNBitsQLoRA
        MatMulNBitsQkv MatMulPacked MaxpoolWithMask MoE MoEGroupRouter MoEPacked MulInteger
        MultiHeadAttention MurmurHash3 NGramHashMapping NGramRepeatBlock NhwcConv NhwcFusedConv
        NhwcMaxPool PackedAttention PackedMultiHeadAttention PackedSparseAttentionIndexer
        PackedSparseAttentionIndexerMerge Pad PagedAttention QAttention QEmbedLayerNormalization
        QGemm QLinearAdd QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool
        QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid QLinearSoftmax QLinearWhere
        QMoE QOrderedAttention QOrderedGelu QOrderedLayerNormalization
        QOrderedLongformerAttention QOrderedMatMul QuantizeBFP QuantizeLinear QuantizeWithOrder
        QuickGelu RMSNormRotary Range ReduceSumInteger RelativePositionBias RemovePadding
        RestorePadding Rfft RotaryEmbedding RouterGateUpProj SampleOp Sampling ScaledSiLU
        SkipGroupNorm SkipLayerNormalization SkipSimplifiedLayerNormalization SparseAttention
        SparseAttentionIndexer SparsePagedAttention SparseToDenseMatMul SpeculativePrefixCommit
        SwiGLU Tokenizer TorchEmbedding TransposeMatMul Trilu UnfoldTensor Unique
        VarlenCausalConvWithState VarlenNGramHashMapping WhisperBeamSearch WordConvEmbedding
        """
    ),
    "com.microsoft.nchwc": _names(
        """
        AveragePool Conv GlobalAveragePool GlobalMaxPool MaxPool ReorderInput ReorderOutput
        Upsample
        """
    ),
    "com.ms.internal.nhwc": _names(
        """
        AveragePool BatchNormalization Conv ConvTranspose DepthToSpace GlobalAveragePool
        GlobalLpPool GlobalMaxPool GridSample InstanceNormalization LRN LpPool MaxPool MaxUnpool
        QLinearAveragePool QLinearConv QLinearConvTranspose Resize SpaceToDepth
        """
    ),
}
"""By the domain; the one without a name is ONNX's own."""
