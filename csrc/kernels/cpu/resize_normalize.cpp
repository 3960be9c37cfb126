#include "kernels/cpu/resize_normalize.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <vector>

#include "kernels/content_hash.h"
#include "kernels/cpu/huge_pages.h"
#include "kernels/cpu/thread_pool.h"

namespace fidfast {
namespace {

constexpr int64_t kTileColumns = 128;  // turned columns of a tile: 128 * 192 bytes fit a first-level cache of 32 KB

// Grow-only memory on cache-line boundaries.
template <typename T>
class Buffer {
public:
    T* reserve(int64_t count) {
        if (count > size_) {
            data_.reset();
            data_.reset(static_cast<T*>(::operator new(size_t(count) * sizeof(T), std::align_val_t(64))));
            size_ = count;
        }
        return data_.get();
    }

private:
    struct Free {
        void operator()(T* p) const { ::operator delete(p, std::align_val_t(64)); }
    };
    std::unique_ptr<T, Free> data_;
    int64_t size_ = 0;
};

// Tap tables of one axis. For the horizontal pass every output has max_count taps inside the image (padded with zero
// weights, which change no sum), so that the inner loop has one length; and outputs are grouped in tiles.
struct Axis {
    std::vector<int64_t> start, count;
    std::vector<double> weights;
    std::vector<float> weights32;
    std::vector<Tile> tiles;
    int64_t max_count = 0, max_tile_columns = 0;

    AxisTaps taps() const { return {max_count, start.data(), count.data(), weights.data(), weights32.data()}; }
};

Axis make_axis(Resampling rule, int64_t size) {
    Axis axis;
    const int64_t room = max_taps(rule, size);
    std::vector<double> all(size_t(kOutPadded * room));
    for (int i = 0; i < kOut; i++) {
        double* weights = &all[size_t(i * room)];
        Taps taps = make_taps(rule, size, i, weights);
        if (size == kOut) {  // every filter is 1 at 0 and 0 at the other integers: the image is copied
            taps = {i, 1};
            weights[0] = 1.0;
        }
        axis.start.push_back(taps.start);
        axis.count.push_back(taps.count);
        axis.max_count = std::max(axis.max_count, taps.count);
    }
    axis.weights.resize(size_t(kOutPadded * axis.max_count));
    for (int i = 0; i < kOut; i++)
        std::copy_n(&all[size_t(i * room)], axis.count[size_t(i)], &axis.weights[size_t(i * axis.max_count)]);
    return axis;
}

void prepare_for_horizontal(Axis& axis, int64_t size) {
    for (size_t i = 0; i < size_t(kOut); i++) {
        const int64_t shift = std::max<int64_t>(axis.start[i] + axis.max_count - size, 0);
        double* weights = &axis.weights[i * size_t(axis.max_count)];
        std::memmove(weights + shift, weights, size_t(axis.count[i]) * sizeof(double));
        std::fill_n(weights, shift, 0.0);
        axis.start[i] -= shift;
    }
    for (int i = kOut; i < kOutPadded; i++) axis.start.push_back(axis.start.back());
    for (int first = 0; first < kOutPadded;) {
        Tile tile{first, first, axis.start[size_t(first)], 0};
        do {
            tile.end_output += 8;
            tile.columns = axis.start[size_t(tile.end_output - 1)] + axis.max_count - tile.first_column;
        } while (tile.end_output < kOutPadded &&
                 axis.start[size_t(tile.end_output + 7)] + axis.max_count - tile.first_column <= kTileColumns);
        axis.tiles.push_back(tile);
        axis.max_tile_columns = std::max(axis.max_tile_columns, tile.columns);
        first = tile.end_output;
    }
}

int64_t round_up(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

// One horizontal strip of one image.
struct Strip {
    int64_t image;
    int first_output, end_output;  // output rows to make
    int64_t first_row, end_row;    // source rows that this strip checks and hashes
};

struct Scratch {
    Buffer<uint32_t> pixels;  // (kBlock, row of pixels)
    Buffer<float> planes;     // (kBlock, 3, plane)
    Buffer<double> columns;   // turned columns of a tile
    Buffer<float> ring;       // (ring rows, kRowFloats) resized rows
};

class StripWorker {
public:
    StripWorker(const ResizeNormalizeParams& params, const Strip& strip, const Axis* x_axis, const Axis* y_axis)
        : params_(params), strip_(strip), image_(params.images[strip.image]), x_axis_(x_axis), y_axis_(y_axis) {
        thread_local Scratch scratch;
        scratch_ = &scratch;
        keep_values_ = image_.is_float && params.input.quantize == Quantize::none;
        row_pixels_ = round_up(image_.width, kHashSegment) + kHashSegment;
        pixels_ = scratch.pixels.reserve(kBlock * row_pixels_);
        for (int i = 0; i < kBlock; i++)  // rows end in zeros: for the hash, and for turning whole groups of 8 columns
            std::fill(pixels_ + i * row_pixels_ + image_.width, pixels_ + (i + 1) * row_pixels_, 0u);
        if (keep_values_) {
            planes_ = scratch.planes.reserve(kBlock * 3 * row_pixels_);
            for (int i = 0; i < 3 * kBlock; i++)
                std::fill(planes_ + i * row_pixels_ + image_.width, planes_ + (i + 1) * row_pixels_, 0.0f);
        }
    }

    // Adds to sums what this strip's source rows contribute to the hash; false if the image is unusable.
    bool run(uint64_t sums[2]) {
        sums_ = sums;
        if (params_.out) resize();
        if (params_.hashes || image_.is_float)
            for (int64_t y = strip_.first_row; y < strip_.end_row; y++)
                if (!is_needed(y)) load(y, 0);
        return usable_;
    }

private:
    bool is_needed(int64_t y) {  // asked for rising y only
        while (next_needed_ < needed_.size() && needed_[next_needed_] < y) next_needed_++;
        return next_needed_ < needed_.size() && needed_[next_needed_] == y;
    }

    void load(int64_t y, int slot) {
        uint32_t* pixels = pixels_ + slot * row_pixels_;
        float* planes = keep_values_ ? planes_ + slot * 3 * row_pixels_ : nullptr;
        const bool hash = params_.hashes && y >= strip_.first_row && y < strip_.end_row;
        if (!image_.is_float)
            params_.rows->load_bytes(image_, y, pixels);
        else if (!params_.rows->load_floats(image_, y, params_.input, hash || !keep_values_ ? pixels : nullptr, planes,
                                            row_pixels_))
            usable_ = false;
        if (hash) params_.rows->hash_row(pixels, y, image_.width, sums_);
    }

    void resize() {
        const AxisTaps x_taps = x_axis_->taps(), y_taps = y_axis_->taps();
        double* columns = scratch_->columns.reserve(round_up(x_axis_->max_tile_columns, 8) * 3 * kBlock);
        const int64_t ring_rows = y_axis_->max_count + kBlock;
        float* ring = scratch_->ring.reserve((ring_rows + 1) * kRowFloats);
        float* nowhere = ring + ring_rows * kRowFloats;  // for the lanes that an incomplete block leaves over
        std::vector<int64_t> first_needed;               // of each output row, its first tap's position in needed_
        for (int y = strip_.first_output; y < strip_.end_output; y++) {
            const int64_t start = y_axis_->start[size_t(y)], end = start + y_axis_->count[size_t(y)];
            for (int64_t row = needed_.empty() ? start : std::max(start, needed_.back() + 1); row < end; row++)
                needed_.push_back(row);
            first_needed.push_back(int64_t(needed_.size()) - (needed_.back() + 1 - start));
        }
        const int64_t out_plane = params_.channels_last ? 0 : int64_t(kOut) * kOut;
        const size_t out_size = size_of(params_.out_type);
        std::vector<const float*> rows(size_t(y_axis_->max_count));
        int64_t ready = 0;
        const int64_t num_needed = int64_t(needed_.size());
        for (int y = strip_.first_output; y < strip_.end_output; y++) {
            const int64_t first = first_needed[size_t(y - strip_.first_output)], count = y_axis_->count[size_t(y)];
            while (ready < first + count) {
                const void* source[kBlock];
                float* out[kBlock];
                for (int i = 0; i < kBlock; i++) {
                    const bool live = ready + i < num_needed;
                    const int slot = live ? i : 0;
                    if (live) load(needed_[size_t(ready + i)], i);
                    source[i] = keep_values_ ? static_cast<const void*>(planes_ + slot * 3 * row_pixels_)
                                             : static_cast<const void*>(pixels_ + slot * row_pixels_);
                    out[i] = live ? ring + (ready + i) % ring_rows * kRowFloats : nowhere;
                }
                params_.rows->horizontal(source, keep_values_ ? row_pixels_ : 0, x_taps, x_axis_->tiles.data(),
                                         int(x_axis_->tiles.size()), params_.preset.sum_in_double,
                                         params_.channels_last, columns, out);
                ready += kBlock;
            }
            for (int64_t k = 0; k < count; k++) rows[size_t(k)] = ring + (first + k) % ring_rows * kRowFloats;
            const int64_t at = strip_.image * 3 * kOut * kOut + int64_t(y) * kOut * (params_.channels_last ? 3 : 1);
            params_.rows->vertical(rows.data(), y_taps, y, params_.preset, params_.out_type,
                                   params_.channels_last, static_cast<char*>(params_.out) + size_t(at) * out_size,
                                   out_plane);
        }
    }

    const ResizeNormalizeParams& params_;
    const Strip& strip_;
    const ImageView& image_;
    const Axis *x_axis_, *y_axis_;
    Scratch* scratch_;
    bool keep_values_, usable_ = true;
    int64_t row_pixels_;
    uint32_t* pixels_;
    float* planes_ = nullptr;
    uint64_t* sums_ = nullptr;
    std::vector<int64_t> needed_;  // source rows that this strip's outputs read, rising
    size_t next_needed_ = 0;
};

// Whole images when there are enough of them; else, and for large ones, strips. Results do not depend on the cut.
std::vector<Strip> cut_into_strips(const ResizeNormalizeParams& params) {
    std::vector<Strip> strips;
    for (int64_t i = 0; i < params.count; i++) {
        const ImageView& image = params.images[i];
        int64_t pieces = 1;
        if (params.threads > 1) {
            const int64_t wanted = 4 * int64_t(params.threads);
            pieces = std::max(params.count < wanted ? wanted / params.count : 1, image.height * image.width >> 20);
            pieces = std::min<int64_t>(pieces, 32);
        }
        for (int64_t p = 0; p < pieces; p++)
            strips.push_back({i, int(kOut * p / pieces), int(kOut * (p + 1) / pieces), image.height * p / pieces,
                              image.height * (p + 1) / pieces});
    }
    return strips;
}

}  // namespace

void resize_normalize(const ResizeNormalizeParams& params) {
    std::map<int64_t, Axis> x_axes, y_axes;
    if (params.out) {
        for (int64_t i = 0; i < params.count; i++) {
            x_axes[params.images[i].width];
            y_axes[params.images[i].height];
        }
        std::vector<std::pair<const int64_t, Axis>*> work;
        for (auto& entry : x_axes) work.push_back(&entry);
        for (auto& entry : y_axes) work.push_back(&entry);
        parallel_for(int64_t(work.size()), params.threads, [&](int64_t i) {
            auto& [size, axis] = *work[size_t(i)];
            axis = make_axis(params.preset.resampling, size);
            if (size_t(i) < x_axes.size()) prepare_for_horizontal(axis, size);
            axis.weights32.assign(axis.weights.begin(), axis.weights.end());
        });
    }
    if (params.out) advise_huge_pages(params.out, size_t(params.count) * 3 * kOut * kOut * size_of(params.out_type));
    const std::vector<Strip> strips = cut_into_strips(params);
    std::vector<std::atomic<uint64_t>> sums(size_t(2 * params.count));
    std::vector<std::atomic<bool>> unusable(size_t(params.count));
    parallel_for(int64_t(strips.size()), params.threads, [&](int64_t i) {
        const Strip& strip = strips[size_t(i)];
        const ImageView& image = params.images[strip.image];
        const Axis* x_axis = params.out ? &x_axes.at(image.width) : nullptr;
        const Axis* y_axis = params.out ? &y_axes.at(image.height) : nullptr;
        uint64_t part[2] = {0, 0};
        if (!StripWorker(params, strip, x_axis, y_axis).run(part)) unusable[size_t(strip.image)] = true;
        for (int j = 0; j < 2; j++) sums[size_t(2 * strip.image + j)].fetch_add(part[j], std::memory_order_relaxed);
    });
    for (int64_t i = 0; i < params.count; i++) {
        params.unusable[i] = unusable[size_t(i)];
        for (int64_t j = 0; params.hashes && j < 2; j++)
            params.hashes[2 * i + j] =
                finish_hash(sums[size_t(2 * i + j)], params.images[i].height, params.images[i].width);
    }
}

const RowKernels* rows_of_level(const char* name) {
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");  // F16C is older than both
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx512 && !std::strcmp(name, kAvx512Rows.name)) return &kAvx512Rows;
    if (avx2 && !std::strcmp(name, kAvx2Rows.name)) return &kAvx2Rows;
#endif
    return std::strcmp(name, kScalarRows.name) ? nullptr : &kScalarRows;
}

const RowKernels* best_rows() {
    for (const char* name : {"avx512", "avx2"})
        if (const RowKernels* rows = rows_of_level(name)) return rows;
    return &kScalarRows;
}

}  // namespace fidfast
