// Tap tables of one axis as resize_normalize.cu reads them: made on the host, uploaded once per preset and size.
//
// Columns (the horizontal pass), image width W:
//   int32 start[300]              first source column of every output column
//   Real  weights[chunks][300][4] times kWeightScale, zeros behind the last tap
// Rows (the vertical pass), image height H, window = how many rows' weights belong together:
//   int32 start[300], last[300]   first and last source row of every output row
//   int32 open[300]               the first output row that is not complete before source row start[i]
//   Real  weights[299][window]    gather: of the last `window` needed source rows, zeros in front of the first tap
//      or weights[H][window]      scatter: of source row y for the outputs that are not complete before it
// and for gather:
//   int32 rank[H + 1]             how many source rows before y the preset needs
//   int32 needed[H]               the rows it needs; -1 behind the last
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "kernels/resample.h"

namespace fidfast {

constexpr int kTableOutputs = 300;  // kOut, and all parts stay on 16-byte boundaries
constexpr int kChunk = 4;           // horizontal taps that are applied together

// A byte's bits 0..255 taken for a float's are x * 2^-149, a denormal, and taken for the upper half of a double's
// x * 2^-1042: exact, and at no cost, where a conversion takes four (float) or eight (double) times the multiplication
// that follows it. Weights are stored times a power of two that brings the products back among the normal numbers; the
// sums are rounded as if nothing had been scaled.
template <typename Real>
constexpr double kWeightScale = sizeof(Real) == 8 ? 0x1p1000 : 0x1p100;
template <typename Real>
constexpr double kByteScale = sizeof(Real) == 8 ? 0x1p42 : 0x1p49;  // sum * kByteScale is on the scale of the bytes

// How the vertical pass runs: from the last rows for every output, or, where a filter widens with the reduction and
// spans any number of rows, from every row into the few outputs that are not complete yet.
struct RowMethod {
    bool scatter;
    int window;
};

inline RowMethod row_method(Resampling rule, int64_t height) {
    const bool cubic = rule == Resampling::bicubic_pillow;
    if (height <= kOut || rule == Resampling::bilinear || rule == Resampling::bilinear_tf1)
        return {false, cubic ? 4 : 2};
    return {true, cubic ? 5 : 3};
}

struct AxisWeights {
    std::vector<int32_t> start, last;          // (kOut,)
    std::vector<std::vector<double>> weights;  // (kOut, last - start + 1)
};

inline AxisWeights axis_weights(Resampling rule, int64_t size) {
    AxisWeights axis;
    std::vector<double> weights(static_cast<size_t>(max_taps(rule, size)));
    const RowMethod method = row_method(rule, size);
    for (int i = 0; i < kOut; i++) {
        Taps taps = make_taps(rule, size, i, weights.data());
        const double* from = weights.data();
        // Enlarging, rounding can add a tap to the 2 or 4, of weight 0 on one side.
        if (!method.scatter && taps.count > method.window) {
            if (from[0] == 0.0) from++, taps.start++;
            taps.count--;
        }
        if (size == kOut) {  // every filter is 1 at 0 and 0 at the other integers: the image is copied
            taps = {i, 1};
            weights[0] = 1.0;
            from = weights.data();
        }
        axis.start.push_back(static_cast<int32_t>(taps.start));
        axis.last.push_back(static_cast<int32_t>(taps.start + taps.count - 1));
        axis.weights.emplace_back(from, from + taps.count);
        if (i && (axis.start[size_t(i)] < axis.start[size_t(i) - 1] || axis.last[size_t(i)] < axis.last[size_t(i) - 1]))
            throw std::logic_error("taps that do not advance from one output to the next");
    }
    return axis;
}

// Four taps at a time: how many times.
inline int column_chunks(Resampling rule, int64_t width) {
    size_t most = 0;
    for (const std::vector<double>& weights : axis_weights(rule, width).weights)
        most = weights.size() > most ? weights.size() : most;
    return static_cast<int>((most + kChunk - 1) / kChunk);
}

template <typename T>
void append(std::vector<char>& table, const std::vector<T>& values) {
    const char* bytes = reinterpret_cast<const char*>(values.data());
    table.insert(table.end(), bytes, bytes + values.size() * sizeof(T));
}

template <typename Real>
std::vector<char> make_column_table(Resampling rule, int64_t width) {
    const AxisWeights axis = axis_weights(rule, width);
    std::vector<int32_t> start = axis.start;
    start.resize(kTableOutputs, start.back());
    std::vector<Real> weights(static_cast<size_t>(column_chunks(rule, width)) * kTableOutputs * kChunk);
    for (size_t i = 0; i < axis.weights.size(); i++)
        for (size_t k = 0; k < axis.weights[i].size(); k++)
            weights[(k / kChunk * kTableOutputs + i) * kChunk + k % kChunk] =
                static_cast<Real>(axis.weights[i][k] * kWeightScale<Real>);
    std::vector<char> table;
    append(table, start);
    append(table, weights);
    return table;
}

template <typename Real>
std::vector<char> make_row_table(Resampling rule, int64_t height) {
    const AxisWeights axis = axis_weights(rule, height);
    const RowMethod method = row_method(rule, height);
    const size_t window = static_cast<size_t>(method.window), rows = static_cast<size_t>(height);
    std::vector<Real> weights((method.scatter ? rows : static_cast<size_t>(kOut)) * window);
    std::vector<char> is_needed(rows);
    std::vector<int32_t> open_at(rows);  // the first output row that is not complete before source row y
    for (size_t y = 0, i = 0; y < rows; y++) {
        while (i < axis.last.size() && axis.last[i] < static_cast<int32_t>(y)) i++;
        open_at[y] = static_cast<int32_t>(i);
    }
    for (size_t i = 0; i < axis.weights.size(); i++) {
        const size_t count = axis.weights[i].size();
        for (size_t k = 0; k < count; k++) {
            const size_t y = static_cast<size_t>(axis.start[i]) + k;
            const size_t place = method.scatter ? i - static_cast<size_t>(open_at[y]) : window - count + k;
            if (place >= window) throw std::logic_error("more rows or outputs together than fit the window");
            weights[(method.scatter ? y : i) * window + place] = static_cast<Real>(axis.weights[i][k]);
            is_needed[y] = 1;
        }
    }
    std::vector<int32_t> rank(1, 0), needed, open;
    for (size_t y = 0; y < rows; y++) {
        if (is_needed[y]) needed.push_back(static_cast<int32_t>(y));
        rank.push_back(static_cast<int32_t>(needed.size()));
    }
    needed.resize(rows, -1);
    std::vector<int32_t> start = axis.start, last = axis.last;
    for (int32_t y : start) open.push_back(open_at[static_cast<size_t>(y)]);
    for (std::vector<int32_t>* part : {&start, &last, &open}) part->resize(kTableOutputs, part->back());
    std::vector<char> table;
    append(table, start);
    append(table, last);
    append(table, open);
    append(table, weights);
    if (!method.scatter) {
        append(table, rank);
        append(table, needed);
    }
    return table;
}

}  // namespace fidfast
