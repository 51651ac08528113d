"""What TFLite Micro and LiteRT declare of that which our C++ uses, so that it compiles here.

https://github.com/tensorflow/tflite-micro, commit 90b983c2b, and
https://github.com/google-ai-edge/LiteRT, commit f67457790, both of August 2026.
"""

import subprocess

# `AddXxx` of MicroMutableOpResolver in tensorflow/lite/micro/micro_mutable_op_resolver.h, without
# AddBuiltin, AddCustom and the custom ops for signals, decompression and detection.
METHODS = """
Abs Add AddN ArgMax ArgMin AssignVariable AveragePool2D BatchMatMul BatchToSpaceNd BroadcastArgs
BroadcastTo CallOnce Cast Ceil Concatenation Conv2D Cos CumSum DepthToSpace DepthwiseConv2D
Dequantize Div DynamicUpdateSlice Elu EmbeddingLookup Equal Exp ExpandDims Fill Floor FloorDiv
FloorMod FullyConnected Gather GatherNd Greater GreaterEqual HardSwish If L2Normalization L2Pool2D
LeakyRelu Less LessEqual Log LogSoftmax LogicalAnd LogicalNot LogicalOr Logistic MaxPool2D Maximum
Mean Minimum MirrorPad Mul Neg NotEqual Pack Pad PadV2 Prelu Quantize ReadVariable ReduceAll
ReduceMax ReduceMin Relu Relu6 Reshape ResizeBilinear ResizeNearestNeighbor ReverseV2 Round Rsqrt
SelectV2 Shape Sin Slice Softmax SpaceToBatchNd SpaceToDepth Split SplitV Sqrt Square
SquaredDifference Squeeze StridedSlice Sub Sum Svdf Tanh Transpose TransposeConv
UnidirectionalSequenceLSTM Unpack VarHandle While ZerosLike
"""
_COMMON = """\
#include <cstddef>
#include <cstdint>
#include <memory>
enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
"""
_ADD = "\n".join(f"  TfLiteStatus Add{name}();" for name in METHODS.split())
_RESOLVER = f"""\
#include "common.h"
namespace tflite {{
struct MicroOpResolver {{}};
template <unsigned int tOpCount> struct MicroMutableOpResolver : MicroOpResolver {{
{_ADD}
}};
}}
"""
_MICRO_INTERPRETER = """\
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
struct TfLiteTensor {
  union { std::int8_t* int8; } data;
};
namespace tflite {
struct Model;
const Model* GetModel(const void*);
struct MicroInterpreter {
  MicroInterpreter(const Model*, const MicroOpResolver&, std::uint8_t*, std::size_t);
  TfLiteStatus AllocateTensors();
  TfLiteStatus Invoke();
  TfLiteTensor* input(std::size_t);
  TfLiteTensor* output(std::size_t);
};
}
"""
_INTERPRETER = """\
#include "common.h"
namespace tflite {
struct Interpreter {
  TfLiteStatus AllocateTensors();
  TfLiteStatus Invoke();
  template <class T> T* typed_input_tensor(int);
  template <class T> T* typed_output_tensor(int);
};
}
"""
_MODEL_BUILDER = """\
#include "common.h"
namespace tflite {
struct FlatBufferModel {
  static std::unique_ptr<FlatBufferModel> BuildFromFile(const char*);
};
}
"""
_REGISTER = """\
#include "tflite/interpreter.h"
#include "tflite/model_builder.h"
namespace tflite {
struct OpResolver {};
namespace ops { namespace builtin { struct BuiltinOpResolver : OpResolver {}; } }
struct InterpreterBuilder {
  InterpreterBuilder(const FlatBufferModel&, const OpResolver&);
  TfLiteStatus operator()(std::unique_ptr<Interpreter>*);
};
}
"""
_HEADERS = {
    "common.h": _COMMON,
    "tensorflow/lite/micro/micro_interpreter.h": _MICRO_INTERPRETER,
    "tensorflow/lite/micro/micro_mutable_op_resolver.h": _RESOLVER,
    "tflite/interpreter.h": _INTERPRETER,
    "tflite/kernels/register.h": _REGISTER,
    "tflite/model_builder.h": _MODEL_BUILDER,
}


def check(source, folder, *includes):
    """Compiles C++ without making anything, in an empty folder, with further folders of headers."""
    for name, text in _HEADERS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#pragma once\n{text}")
    (folder / "main.cc").write_text(source)
    options = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    places = [f"-I{place}" for place in (folder, *includes)]
    subprocess.run(["c++", *options, *places, "main.cc"], cwd=folder, check=True)
