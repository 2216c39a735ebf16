//! The profiles: what each target accepts, as data.
//!
//! In: the documents of the targets and the reports of their users. Out: one table of rules for each, which `check_target` reads. The
//! sources are listed in `docs/targets.md`. No rule asks for symmetric weights, which most targets want: those of a model always are (N8).

use super::{Limit, Profile, Rule, Severity};

use Limit::{
    CacheBytes, DynamicLayers, FloatLayers, LinearPerChannel, NarrowCodes, PairsFitI16,
    RowMultipleOf, SignedActivations, SmallWeights, StaticLayers, StaticWeightBits,
    SymmetricActivations, WeightOnly,
};
use Severity::{Note, Refused, Slower};

const fn rule(limit: Limit, severity: Severity, why: &'static str, repair: &'static str) -> Rule {
    Rule {
        limit,
        severity,
        why,
        repair,
    }
}

const STATIC: &str = "give the layer Precision::STATIC and calibrate it, or leave it in f32";
const SYMMETRIC: &str = "PrepareOptions { activations: Symmetry::Symmetric, .. }";

/// ONNX Runtime on x86.
pub const ONNX_RUNTIME_X86: Profile = Profile {
    name: "onnxruntime-x86",
    what: "ONNX Runtime, CPU execution provider on x86",
    rules: &[
        rule(
            SignedActivations,
            Slower,
            "products of i8 activations with i8 weights take a slower path than u8 with i8",
            "add 128 to codes and zero points on export: the same values as u8, exactly (N9)",
        ),
        rule(
            PairsFitI16,
            Refused,
            "on a CPU without VNNI pairs of u8 times i8 are summed in saturating 16 bits: other results, without a word",
            "Precision::static_bits(7): 2 · 255 · 63 = 32,130 fits; or deploy on CPUs with VNNI only",
        ),
        rule(
            StaticWeightBits(&[4, 8]),
            Refused,
            "QLinearConv, QLinearMatMul and DequantizeLinear have 4 and 8 bits only",
            "Precision::static_bits(8) or static_bits(4); fewer bits can be stored in the codes of more",
        ),
        rule(
            WeightOnly {
                bits: &[4, 8],
                groups: Some(&[16, 32, 64, 128, 256]),
                per_channel: true,
            },
            Slower,
            "MatMulNBits takes 4 or 8 bits in blocks of 16 to 256, powers of two; elsewhere DequantizeLinear of a constant is \
             folded back to f32, and nothing is gained at run time",
            "Precision::WeightOnly { bits: 4, group: Some(32) }",
        ),
    ],
};

/// TensorRT on a GPU.
pub const TENSORRT: Profile = Profile {
    name: "tensorrt",
    what: "TensorRT on NVIDIA GPUs, Jetson's among them",
    rules: &[
        rule(
            SymmetricActivations,
            Refused,
            "a zero point other than 0 is refused: `Non-zero zero point is not supported`",
            SYMMETRIC,
        ),
        rule(
            StaticWeightBits(&[8]),
            Refused,
            "integer products have 8 bits; 4 are for weights alone",
            "Precision::static_bits(8), or weights alone in 4 bits",
        ),
        rule(
            DynamicLayers,
            Refused,
            "the importer has no DynamicQuantizeLinear",
            STATIC,
        ),
        rule(
            WeightOnly {
                bits: &[4],
                groups: Some(&[64, 128]),
                per_channel: false,
            },
            Refused,
            "weights alone are 4 bits in blocks of 64 or 128",
            "Precision::WeightOnly { bits: 4, group: Some(64) }",
        ),
    ],
};

/// LiteRT on a CPU.
pub const LITERT_CPU: Profile = Profile {
    name: "litert-cpu",
    what: "LiteRT (TensorFlow Lite) on a CPU",
    rules: &[
        rule(
            NarrowCodes,
            Refused,
            "kernels rely on weights of -127..=127; with -128 a product may overflow",
            "CodeRange::INT8_NARROW for the weights, which is the default (N8)",
        ),
        rule(
            StaticWeightBits(&[4, 8]),
            Refused,
            "weights have 4 or 8 bits",
            "Precision::static_bits(8) or static_bits(4)",
        ),
        rule(
            LinearPerChannel,
            Note,
            "FULLY_CONNECTED took one scale for all outputs in older versions",
            "use a current version, or a scheme with Granularity::PerTensor for linear layers",
        ),
        rule(
            WeightOnly {
                bits: &[4, 8],
                groups: Some(&[32, 64, 128, 256]),
                per_channel: true,
            },
            Refused,
            "weights alone are 4 or 8 bits, per channel or in blocks of 32, 64, 128 or 256",
            "Precision::WEIGHT_ONLY_INT8, or WeightOnly { bits: 4, group: Some(32) }",
        ),
    ],
};

/// Edge TPU.
pub const EDGE_TPU: Profile = Profile {
    name: "edge-tpu",
    what: "Edge TPU (Coral), by way of a fully integer LiteRT model",
    rules: &[
        rule(
            FloatLayers,
            Refused,
            "everything behind the first layer in f32 runs on the CPU: a model is one partition up to there",
            "quantize the layer, or move it behind the last integer one",
        ),
        rule(
            DynamicLayers,
            Refused,
            "only static ranges are compiled",
            STATIC,
        ),
        rule(
            WeightOnly {
                bits: &[],
                groups: Some(&[]),
                per_channel: false,
            },
            Refused,
            "a layer with real activations runs on the CPU",
            STATIC,
        ),
        rule(
            NarrowCodes,
            Refused,
            "as LiteRT: weights are -127..=127",
            "CodeRange::INT8_NARROW for the weights, which is the default (N8)",
        ),
        rule(
            StaticWeightBits(&[8]),
            Refused,
            "weights have 8 bits",
            "Precision::static_bits(8); codes of fewer bits may be stored in 8",
        ),
        rule(
            CacheBytes(8 << 20),
            Slower,
            "parameters beyond the cache on the chip are fetched for every inference",
            "a smaller model, or one split over two devices",
        ),
    ],
};

/// Core ML.
pub const CORE_ML: Profile = Profile {
    name: "core-ml",
    what: "Core ML of iOS 17, macOS 14 and later",
    rules: &[
        rule(
            DynamicLayers,
            Refused,
            "there is no quantization at run time",
            STATIC,
        ),
        rule(
            StaticWeightBits(&[8]),
            Refused,
            "products of integers have 8 bits",
            "Precision::static_bits(8)",
        ),
        rule(
            WeightOnly {
                bits: &[4, 8],
                groups: None,
                per_channel: true,
            },
            Refused,
            "weights alone have 4 bits (iOS 18) or 8",
            "Precision::WEIGHT_ONLY_INT8, or WEIGHT_ONLY_INT4 for iOS 18",
        ),
        rule(
            SmallWeights(2048),
            Note,
            "coremltools leaves weights with fewer elements in floating point unless told otherwise",
            "set weight_threshold lower, or leave the layer in f32",
        ),
    ],
};

/// The DLA of a Jetson.
pub const JETSON_DLA: Profile = Profile {
    name: "jetson-dla",
    what: "the deep learning accelerator of Jetson Orin, by way of TensorRT",
    rules: &[
        rule(
            SymmetricActivations,
            Refused,
            "codes are symmetric unless the asymmetric mode of the DLA is asked for",
            SYMMETRIC,
        ),
        rule(
            StaticWeightBits(&[8]),
            Refused,
            "weights have 8 bits",
            "Precision::static_bits(8)",
        ),
        rule(
            DynamicLayers,
            Refused,
            "only static ranges are known",
            STATIC,
        ),
        rule(
            FloatLayers,
            Slower,
            "it runs in fp16, or on the GPU without a word if that is allowed",
            "quantize the layer, and forbid the way out to the GPU to see what does not fit",
        ),
        rule(
            WeightOnly {
                bits: &[],
                groups: Some(&[]),
                per_channel: false,
            },
            Slower,
            "a layer with real activations runs in fp16",
            STATIC,
        ),
    ],
};

/// llama.cpp.
pub const LLAMA_CPP: Profile = Profile {
    name: "llama.cpp",
    what: "llama.cpp: GGUF files with Q8_0 and Q4_0 blocks",
    rules: &[
        rule(
            StaticLayers,
            Refused,
            "activations have no ranges in the file: they become codes at run time",
            "Precision::WeightOnly { bits: 8, group: Some(32) } is Q8_0 but for its f16 scales",
        ),
        rule(
            WeightOnly {
                bits: &[4, 8],
                groups: Some(&[32]),
                per_channel: false,
            },
            Refused,
            "blocks hold 32 values",
            "Precision::WeightOnly { bits: 4, group: Some(32) }, or 8",
        ),
        rule(
            RowMultipleOf(32),
            Refused,
            "a row that is not a multiple of a block falls back to another type",
            "choose widths that are multiples of 32",
        ),
    ],
};

/// All of them.
pub const PROFILES: [Profile; 7] = [
    ONNX_RUNTIME_X86,
    TENSORRT,
    LITERT_CPU,
    EDGE_TPU,
    CORE_ML,
    JETSON_DLA,
    LLAMA_CPP,
];
