// The switches of fidfast._cuda_emulated that tests turn.
#include <pybind11/pybind11.h>

#include <string>

#include "emulation/scheduler.h"

namespace py = pybind11;

namespace fidfast {

void bind_emulation(py::module_& m);

namespace {

void set_order(const std::string& name, uint64_t seed) {
    using emulation::Order;
    const Order order = name == "forward"   ? Order::forward
                        : name == "reverse" ? Order::reverse
                        : name == "random"  ? Order::random
                        : name.empty()      ? Order::unset
                                            : throw py::value_error("order: forward, reverse, random or nothing");
    emulation::set_thread_order(order, seed);
}

}  // namespace

void bind_emulation(py::module_& m) {
    m.def("set_thread_order", &set_order, py::arg("order"), py::arg("seed") = 0);
    m.def("set_shared_memory_limit", &emulation::set_shared_memory_limit, py::arg("bytes"));
}

}  // namespace fidfast
