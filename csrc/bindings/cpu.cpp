// fidfast._cpu: a table of contents, no algorithm.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>
#include <vector>

#include "bindings/tensor_view.h"
#include "kernels/content_hash.h"
#include "kernels/cpu/resize_normalize.h"
#include "kernels/cpu/winograd.h"

namespace py = pybind11;

namespace fidfast {
namespace {

const PresetSpec& find_preset(const std::string& name) {
    for (const PresetSpec& preset : kPresets)
        if (name == preset.name) return preset;
    throw py::value_error("preset: no such preset: " + name);
}

const RowKernels* find_rows(const std::string& simd) {
    const RowKernels* rows = simd.empty() ? best_rows() : rows_of_level(simd.c_str());
    if (!rows) throw py::value_error("simd: expected one of simd_levels(), got " + simd);
    return rows;
}

ImageView image_view(const TensorView& tensor) {
    tensor.expect_shape({3, -1, -1});
    const bool is_float = tensor.dtype() == DType::float32;
    if (!is_float && tensor.dtype() != DType::uint8) tensor.fail("uint8 or float32", "another dtype");
    if (!tensor.size(1) || !tensor.size(2)) tensor.fail("height and width of at least 1", "an empty image");
    return {tensor.data(),    tensor.stride(0), tensor.stride(1), tensor.stride(2),
            tensor.size(1), tensor.size(2),   is_float};
}

Quantize quantize_of(const std::string& name) {
    if (name == "round") return Quantize::round;
    if (name == "truncate") return Quantize::truncate;
    if (name.empty()) return Quantize::none;
    throw py::value_error("quantize: expected round, truncate or nothing, got " + name);
}

OutType out_type_of(const TensorView& out) {
    switch (out.dtype()) {
    case DType::float32: return OutType::float32;
    case DType::bfloat16: return OutType::bfloat16;
    case DType::float16: return OutType::float16;
    default: out.fail("float32, bfloat16 or float16", "another dtype");
    }
}

// Returns the indices of float images that hold NaN or values far outside [low, high].
std::vector<int64_t> run(const py::list& images, const py::object& out, const py::object& hashes,
                         const std::string& preset, float low, float high, const std::string& quantize,
                         bool channels_last, int threads, const std::string& simd) {
    std::vector<ImageView> views;
    for (const py::handle& image : images)
        views.push_back(image_view(TensorView(image, "images[" + std::to_string(views.size()) + "]")));
    const int64_t count = int64_t(views.size());
    std::vector<uint8_t> unusable(views.size());
    ResizeNormalizeParams params{};
    params.images = views.data();
    params.count = count;
    params.preset = find_preset(preset);
    params.input = float_input(low, high, quantize_of(quantize));
    params.channels_last = channels_last;
    params.unusable = unusable.data();
    params.threads = threads;
    params.rows = find_rows(simd);
    if (!out.is_none()) {
        const TensorView view(out, "out");
        view.expect_shape({count, 3, kOut, kOut});
        if (channels_last)
            view.expect_dense({0, 2, 3, 1});
        else
            view.expect_dense({0, 1, 2, 3});
        params.out = view.data();
        params.out_type = out_type_of(view);
    }
    if (!hashes.is_none()) {
        const TensorView view(hashes, "hashes");
        view.expect_shape({count, 2});
        view.expect_dense({0, 1});
        if (view.dtype() != DType::int64) view.fail("int64", "another dtype");
        params.hashes = reinterpret_cast<uint64_t*>(view.data());
    }
    {
        py::gil_scoped_release release;
        resize_normalize(params);
    }
    std::vector<int64_t> bad;
    for (int64_t i = 0; i < count; i++)
        if (unusable[size_t(i)]) bad.push_back(i);
    return bad;
}

// [(first source index, weights)] of the 299 outputs of one axis.
std::vector<std::pair<int64_t, std::vector<double>>> taps(const std::string& preset, int64_t size) {
    if (size < 1) throw py::value_error("size: expected at least 1, got " + std::to_string(size));
    const Resampling rule = find_preset(preset).resampling;
    std::vector<double> weights(size_t(max_taps(rule, size)));
    std::vector<std::pair<int64_t, std::vector<double>>> table;
    for (int i = 0; i < kOut; i++) {
        const Taps taps = make_taps(rule, size, i, weights.data());
        table.push_back({taps.start, {weights.begin(), weights.begin() + taps.count}});
    }
    return table;
}

// All tensors float32: x (N, H, W, C), weight (K / panel, points, C, panel), bias (K,), out (N, H', W', K).
void winograd_conv_relu(const py::object& x, const py::object& weight, const py::object& bias, const py::object& out,
                        std::array<int64_t, 2> taps, std::array<int64_t, 2> padding, int threads,
                        const std::string& simd) {
    const WinogradKernel* kernel = winograd_kernel(taps[0], taps[1], simd.c_str());
    if (!kernel) throw py::value_error("taps: no Winograd kernel for this filter on this CPU, simd level " + simd);
    const TensorView xs(x, "x"), weights(weight, "weight"), biases(bias, "bias"), outs(out, "out");
    for (const TensorView* view : {&xs, &weights, &biases, &outs})
        if (view->dtype() != DType::float32) view->fail("float32", "another dtype");
    biases.expect_shape({-1});
    xs.expect_shape({-1, -1, -1, -1});
    const int64_t n = xs.size(0), h = xs.size(1), w = xs.size(2), c = xs.size(3), k = biases.size(0);
    const int64_t out_h = h + 2 * padding[0] - taps[0] + 1, out_w = w + 2 * padding[1] - taps[1] + 1;
    if (padding[0] < 0 || padding[1] < 0 || out_h < 1 || out_w < 1)
        xs.fail("an image larger than the filter", "a smaller one");
    if (c < 1 || c % kWinogradChannels || k < 1 || k % kWinogradOutChannels)
        xs.fail("input channels in multiples of 16, output channels of 32",
                std::to_string(c) + " and " + std::to_string(k));
    weights.expect_shape({k / kernel->panel, kernel->points_y * kernel->points_x, c, kernel->panel});
    outs.expect_shape({n, out_h, out_w, k});
    for (const TensorView* view : {&xs, &weights, &outs}) view->expect_dense({0, 1, 2, 3});
    biases.expect_dense({0});
    WinogradParams params{};
    params.x = reinterpret_cast<const float*>(xs.data());
    params.n = n, params.h = h, params.w = w, params.c = c, params.k = k;
    params.padding_y = padding[0], params.padding_x = padding[1];
    params.weight = reinterpret_cast<const float*>(weights.data());
    params.bias = reinterpret_cast<const float*>(biases.data());
    params.out = reinterpret_cast<float*>(outs.data());
    params.threads = threads;
    py::gil_scoped_release release;
    winograd(*kernel, params);
}

// (channels of a panel, finite positive points of the first axis, of the second), or None without a kernel.
py::object winograd_scheme(int64_t taps_y, int64_t taps_x, const std::string& simd) {
    const WinogradKernel* kernel = winograd_kernel(taps_y, taps_x, simd.c_str());
    if (!kernel) return py::none();
    const auto positive = [](int points) -> std::vector<double> {
        if (points == 6) return {kSixPoints, kSixPoints + 2};
        if (points == 10) return {kTenPoints, kTenPoints + 4};
        return {};
    };
    return py::make_tuple(kernel->panel, positive(kernel->points_y), positive(kernel->points_x));
}

std::vector<std::string> simd_levels() {
    std::vector<std::string> levels;
    for (const char* name : {"scalar", "avx2", "avx512"})
        if (rows_of_level(name)) levels.push_back(name);
    return levels;
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
    m.doc() = "CPU kernels of fidfast";
    m.def("resize_normalize", &run, py::arg("images"), py::arg("out"), py::arg("hashes"), py::arg("preset"),
          py::arg("low"), py::arg("high"), py::arg("quantize"), py::arg("channels_last"), py::arg("threads"),
          py::arg("simd") = "");
    m.def("taps", &taps, py::arg("preset"), py::arg("size"));
    m.def(
        "preset",
        [](const std::string& name) {
            const PresetSpec& p = find_preset(name);
            return py::make_tuple(p.centre, p.scale, p.clip);
        },
        py::arg("name"));
    m.def("presets", [] {
        std::vector<std::string> names;
        for (const PresetSpec& p : kPresets) names.push_back(p.name);
        return names;
    });
    m.def("hash_constants", [] {
        const HashKeys keys = make_hash_keys();
        const auto list = [&](int j) { return std::vector<uint32_t>(keys.k[j], keys.k[j] + kHashSegment); };
        return py::make_tuple(kHashSegment, kGolden, py::make_tuple(kSegmentMultipliers[0], kSegmentMultipliers[1]),
                              py::make_tuple(list(0), list(1)));
    });
    m.def("winograd_conv_relu", &winograd_conv_relu, py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("out"),
          py::arg("taps"), py::arg("padding"), py::arg("threads"), py::arg("simd") = "");
    m.def("winograd_scheme", &winograd_scheme, py::arg("taps_y"), py::arg("taps_x"), py::arg("simd") = "");
    m.def("simd_level", [] { return best_rows()->name; });
    m.def("simd_levels", &simd_levels);
}

}  // namespace fidfast
