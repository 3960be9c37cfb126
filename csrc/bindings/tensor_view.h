// DLPack capsule -> checked view of a tensor's memory. Nothing is copied or owned: the capsule outlives the call.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <string>

namespace fidfast {

// The memory layout of DLPack's C interface (dmlc/dlpack, dlpack.h, version 0.x: the capsule named "dltensor").
struct DLPackTensor {
    void* data;
    int32_t device_type, device_id;
    int32_t ndim;
    uint8_t dtype_code, dtype_bits;
    uint16_t dtype_lanes;
    int64_t* shape;
    int64_t* strides;  // in elements; null means contiguous
    uint64_t byte_offset;
};

enum class DType { uint8, int32, int64, float64, float32, float16, bfloat16, other };

// DLPack's device types.
constexpr int32_t kOnCpu = 1, kOnCuda = 2;

class TensorView {
public:
    TensorView(const pybind11::handle& capsule, std::string name, int32_t device_type = kOnCpu)
        : name_(std::move(name)) {
        const void* pointer = PyCapsule_GetPointer(capsule.ptr(), "dltensor");
        if (!pointer) throw pybind11::error_already_set();
        tensor_ = static_cast<const DLPackTensor*>(pointer);
        if (tensor_->device_type != device_type)
            fail(device_type == kOnCpu ? "a tensor on the CPU" : "a tensor on a CUDA device",
                 "one on device type " + std::to_string(tensor_->device_type));
    }

    char* data() const { return static_cast<char*>(tensor_->data) + tensor_->byte_offset; }
    int32_t device_id() const { return tensor_->device_id; }
    int ndim() const { return tensor_->ndim; }
    int64_t size(int axis) const { return tensor_->shape[axis]; }

    int64_t stride(int axis) const {
        if (tensor_->strides) return tensor_->strides[axis];
        int64_t stride = 1;
        for (int i = ndim() - 1; i > axis; i--) stride *= size(i);
        return stride;
    }

    DType dtype() const {
        if (tensor_->dtype_lanes != 1) return DType::other;
        const int key = tensor_->dtype_code * 1000 + tensor_->dtype_bits;  // codes: 0 int, 1 uint, 2 float, 4 bfloat
        return key == 1008   ? DType::uint8
               : key == 32   ? DType::int32
               : key == 64   ? DType::int64
               : key == 2064 ? DType::float64
               : key == 2032 ? DType::float32
               : key == 2016 ? DType::float16
               : key == 4016 ? DType::bfloat16
                             : DType::other;
    }

    void expect_same_device(const TensorView& other) const {
        if (device_id() != other.device_id())
            fail("a tensor on device " + std::to_string(other.device_id()) + " as " + other.name_,
                 "one on device " + std::to_string(device_id()));
    }

    // -1 stands for any size.
    void expect_shape(std::initializer_list<int64_t> shape) const {
        bool same = ndim() == int(shape.size());
        std::string expected;
        int axis = 0;
        for (int64_t want : shape) {
            same = same && (want < 0 || size(axis) == want);
            expected += (axis++ ? ", " : "") + (want < 0 ? "any" : std::to_string(want));
        }
        if (same) return;
        std::string got;
        for (int i = 0; i < ndim(); i++) got += (i ? ", " : "") + std::to_string(size(i));
        fail("shape (" + expected + ")", "(" + got + ")");
    }

    void expect_dense(std::initializer_list<int> order) const {  // axes from the slowest to the fastest
        int64_t stride_wanted = 1;
        for (auto axis = order.end(); axis-- != order.begin(); stride_wanted *= size(*axis))
            if (size(*axis) > 1 && stride(*axis) != stride_wanted) fail("dense memory", "other strides");
    }

    [[noreturn]] void fail(const std::string& expected, const std::string& got) const {
        throw pybind11::value_error(name_ + ": expected " + expected + ", got " + got);
    }

private:
    std::string name_;
    const DLPackTensor* tensor_;
};

}  // namespace fidfast
