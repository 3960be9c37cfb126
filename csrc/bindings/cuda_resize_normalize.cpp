// resize_normalize and its tap tables, on a CUDA device.
#include <cuda_runtime.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "bindings/cuda_call.h"
#include "kernels/cuda/resize_normalize.h"
#include "kernels/cuda/resize_tables.h"

namespace py = pybind11;

namespace fidfast {

void bind_resize_normalize(py::module_& m);

namespace {

const PresetSpec& find_preset(const std::string& name) {
    for (const PresetSpec& preset : kPresets)
        if (name == preset.name) return preset;
    throw py::value_error("preset: no such preset: " + name);
}

Quantize quantize_of(const std::string& name) {
    if (name == "round") return Quantize::round;
    if (name == "truncate") return Quantize::truncate;
    if (name.empty()) return Quantize::none;
    throw py::value_error("quantize: expected round, truncate or nothing, got " + name);
}

OutType out_type_of(const DeviceView& out) {
    switch (out.dtype()) {
    case DType::float32: return OutType::float32;
    case DType::bfloat16: return OutType::bfloat16;
    case DType::float16: return OutType::float16;
    default: out.fail("float32, bfloat16 or float16", "another dtype");
    }
}

SourceType source_type_of(const DeviceView& image) {
    switch (image.dtype()) {
    case DType::uint8: return SourceType::uint8;
    case DType::float32: return SourceType::float32;
    case DType::bfloat16: return SourceType::bfloat16;
    case DType::float16: return SourceType::float16;
    default: image.fail("uint8, float32, bfloat16 or float16", "another dtype");
    }
}

Layout layout_of(const DeviceImage& image, SourceType type) {
    if (type != SourceType::uint8) return Layout::any;
    if (image.stride_x == 3 && image.stride_c == 1) return Layout::interleaved;
    return image.stride_x == 1 ? Layout::planes : Layout::any;
}

DeviceImage device_image(const DeviceView& view, int64_t index, SourceType type) {
    view.expect_shape({3, -1, -1});
    const int64_t height = view.size(1), width = view.size(2);
    if (height < 1 || width < 1 || height > kMaxSide || width > kMaxSide)
        view.fail("height and width from 1 to " + std::to_string(kMaxSide),
                  std::to_string(height) + " x " + std::to_string(width));
    DeviceImage image{};
    image.data = view.data();
    image.stride_c = view.stride(0);
    image.stride_y = view.stride(1);
    image.stride_x = view.stride(2);
    image.height = int32_t(height);
    image.width = int32_t(width);
    image.index = index;
    image.extent = 2 * image.stride_c + (height - 1) * image.stride_y + (width - 1) * image.stride_x + 1;
    image.layout = layout_of(image, type);
    return image;
}

bool in_double(const PresetSpec& preset) { return preset.sum_in_double; }

int64_t column_table_bytes(const PresetSpec& preset, int64_t chunks) {
    return kTableOutputs * (4 + chunks * kChunk * (in_double(preset) ? 8 : 4));
}

int64_t row_table_bytes(const PresetSpec& preset, int64_t height) {
    const RowMethod method = row_method(preset.resampling, height);
    const int64_t weights = (method.scatter ? height : int64_t(kOut)) * method.window * (in_double(preset) ? 8 : 4);
    return 4 * 3 * kTableOutputs + weights + (method.scatter ? 0 : 4 * (2 * height + 1));
}

// The table of one size out of a dictionary {size: capsule of uint8}.
DeviceView table_of(const py::dict& tables, int64_t size, const char* name, const DeviceView& like) {
    const py::int_ key(size);
    if (!tables.contains(key)) throw py::value_error(std::string(name) + ": none for size " + std::to_string(size));
    const DeviceView table(tables[key], std::string(name) + "[" + std::to_string(size) + "]");
    table.expect_shape({-1});
    table.expect_dense({0});
    table.expect_same_device(like);
    if (table.dtype() != DType::uint8) table.fail("uint8", "another dtype");
    return table;
}

void add_tables(DeviceImage& image, const DeviceView& view, const py::dict& columns, const py::dict& rows,
                const PresetSpec& preset) {
    const DeviceView column_table = table_of(columns, image.width, "columns", view);
    const DeviceView row_table = table_of(rows, image.height, "rows", view);
    const int64_t per_chunk = column_table_bytes(preset, 1) - column_table_bytes(preset, 0);
    image.chunks = int32_t((column_table.size(0) - column_table_bytes(preset, 0)) / per_chunk);
    if (image.chunks < 1 || column_table.size(0) != column_table_bytes(preset, image.chunks))
        column_table.fail("a table of column_table", std::to_string(column_table.size(0)) + " bytes");
    if (row_table.size(0) != row_table_bytes(preset, image.height))
        row_table.fail("a table of row_table", std::to_string(row_table.size(0)) + " bytes");
    image.columns = column_table.data();
    image.rows = row_table.data();
    image.scatter = row_method(preset.resampling, image.height).scatter;
    const RowMethod along_x = row_method(preset.resampling, image.width);  // columns are made by the same rules
    image.two_taps = !along_x.scatter && along_x.window == 2;
}

// Enqueues the work on `stream`. hashes and, for float images, unusable are zeros that the kernels add to.
void run(const py::list& images, const py::dict& columns, const py::dict& rows, const py::object& out,
         const py::object& hashes, const py::object& unusable, const std::string& preset, float low, float high,
         const std::string& quantize, bool channels_last, uintptr_t stream) {
    if (images.empty()) return;
    ResizeNormalizeParams params{};
    params.count = int64_t(images.size());
    params.preset = find_preset(preset);
    params.input = float_input(low, high, quantize_of(quantize));
    params.channels_last = channels_last;
    const DeviceView first(images[0], "images[0]");
    params.source = source_type_of(first);
    std::vector<DeviceImage> views;
    for (const py::handle& capsule : images) {
        const int64_t index = int64_t(views.size());
        const DeviceView view(capsule, "images[" + std::to_string(index) + "]");
        view.expect_same_device(first);
        if (view.dtype() != first.dtype()) view.fail("the dtype of images[0]", "another dtype");
        views.push_back(device_image(view, index, params.source));
        if (!out.is_none()) add_tables(views.back(), view, columns, rows, params.preset);
    }
    params.images = views.data();
    if (!out.is_none()) {
        const DeviceView view(out, "out");
        view.expect_same_device(first);
        view.expect_shape({params.count, 3, kOut, kOut});
        if (channels_last)
            view.expect_dense({0, 2, 3, 1});
        else
            view.expect_dense({0, 1, 2, 3});
        params.out = view.data();
        params.out_type = out_type_of(view);
    }
    if (!hashes.is_none()) {
        const DeviceView view(hashes, "hashes");
        view.expect_same_device(first);
        view.expect_shape({params.count, 2});
        view.expect_dense({0, 1});
        if (view.dtype() != DType::int64) view.fail("int64", "another dtype");
        params.hashes = reinterpret_cast<uint64_t*>(view.data());
    }
    if (params.source != SourceType::uint8) {
        const DeviceView view(unusable, "unusable");
        view.expect_same_device(first);
        view.expect_shape({params.count});
        view.expect_dense({0});
        if (view.dtype() != DType::int32) view.fail("int32", "another dtype");
        params.unusable = reinterpret_cast<int32_t*>(view.data());
    }
    run_kernel("resize_normalize", first, stream,
               [&](cudaStream_t on) { return launch_resize_normalize(params, on); });
}

py::bytes as_bytes(const std::vector<char>& table) { return py::bytes(table.data(), table.size()); }

void check_size(int64_t size) {
    if (size < 1 || size > kMaxSide)
        throw py::value_error("size: expected 1 to " + std::to_string(kMaxSide) + ", got " + std::to_string(size));
}

py::bytes column_table(const std::string& name, int64_t size) {
    const PresetSpec& preset = find_preset(name);
    check_size(size);
    return as_bytes(in_double(preset) ? make_column_table<double>(preset.resampling, size)
                                      : make_column_table<float>(preset.resampling, size));
}

py::bytes row_table(const std::string& name, int64_t size) {
    const PresetSpec& preset = find_preset(name);
    check_size(size);
    return as_bytes(in_double(preset) ? make_row_table<double>(preset.resampling, size)
                                      : make_row_table<float>(preset.resampling, size));
}

}  // namespace

void bind_resize_normalize(py::module_& m) {
    m.def("resize_normalize", &run, py::arg("images"), py::arg("columns"), py::arg("rows"), py::arg("out"),
          py::arg("hashes"), py::arg("unusable"), py::arg("preset"), py::arg("low"), py::arg("high"),
          py::arg("quantize"), py::arg("channels_last"), py::arg("stream"));
    m.def("column_table", &column_table, py::arg("preset"), py::arg("size"));
    m.def("row_table", &row_table, py::arg("preset"), py::arg("size"));
    m.attr("max_side") = kMaxSide;
}

}  // namespace fidfast
