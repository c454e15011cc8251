// Updates added to the rows that their numbers name, always in one order: the updates are sorted by row, and each row
// gets the sum of its own at once. A row that many updates name is summed in parts.
#pragma once
#include "dialect.h"

// Sorts runs of updates, at most 256 long, by row and, of one row, as they came; rows beyond the last are the last.
// `out` has their rows and, behind those, their numbers. Numbers: updates, rows, updates of a run.
DEVICE void sort_runs(GLOBAL const u32 *indices, GLOBAL u32 *out, u64 count, u64 last, u64 run, SHARED u32 *rows,
                      Place at) {
    for (u64 first = at.block * run; first < count; first += at.blocks * run) {
        u32 length = count - first < run ? (u32)(count - first) : (u32)run;
        BARRIER();
        for (u32 i = at.index; i < length; i += at.threads) {
            u32 row = indices[first + i];
            rows[i] = row < last ? row : (u32)(last - 1);
        }
        BARRIER();
        for (u32 i = at.index; i < length; i += at.threads) {
            u32 row = rows[i];
            u64 place = first;
            for (u32 other = 0; other < length; ++other)
                if (rows[other] < row || (rows[other] == row && other < i)) place += 1;
            out[place] = row;
            out[count + place] = (u32)(first + i);
        }
    }
}

KERNEL(sort_rows, GLOBAL const u32 *indices, GLOBAL u32 *out) {
    SHARED_WORDS(rows, 256);
    sort_runs(indices, out, NUMBER(0), NUMBER(1), NUMBER(2), rows, HERE);
}

// Makes one of each two runs: an element's place is its own in its run and as many further as there are elements of
// the other run before it. Numbers: updates, elements of a run.
KERNEL(merge_rows, GLOBAL const u32 *in, GLOBAL u32 *out) {
    u64 count = NUMBER(0), run = NUMBER(1);
    Place at = HERE;
    for (u64 i = at.block * at.threads + at.index; i < count; i += at.blocks * at.threads) {
        u64 pair = i / (2 * run) * (2 * run);
        bool is_left = i < pair + run;
        u64 other = is_left ? pair + run : pair;
        if (other > count) other = count;
        u64 low = other, high = is_left ? pair + 2 * run : pair + run;
        if (high > count) high = count;
        u32 row = in[i];
        // What is of the same row came earlier if it is in the left run.
        while (low < high) {
            u64 middle = low + (high - low) / 2;
            bool is_before = is_left ? in[middle] < row : in[middle] <= row;
            if (is_before) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        u64 place = is_left ? i + (low - other) : i - run + (low - other);
        out[place] = row;
        out[count + place] = in[count + i];
    }
}

// Adds to `out` the rows whose updates all are in one part of the sorted ones, `each` a part. Of a row that goes on in
// the next part, `ends` gets what this one has of it, and of one that began in the part before, `begins`, both f32
// [parts, width]. Only what is added to is written. Numbers: updates, width, updates of a part.
template <typename T>
DEVICE void scatter_parts(GLOBAL const u32 *sorted, GLOBAL const T *updates, GLOBAL T *out, GLOBAL float *begins,
                          GLOBAL float *ends, u64 count, u64 width, u64 each, Place at) {
    u64 parts = (count + each - 1) / each;
    for (u64 i = at.block * at.threads + at.index; i < parts * width; i += at.blocks * at.threads) {
        u64 part = i / width, column = i % width, first = part * each;
        u64 end = first + each < count ? first + each : count;
        bool began = first > 0 && sorted[first - 1] == sorted[first];
        float sum = 0.0f;
        for (u64 j = first; j < end; ++j) {
            u32 row = sorted[j];
            sum += load(updates, sorted[count + j] * width + column);
            bool goes_on = j + 1 < count && sorted[j + 1] == row;
            if (goes_on && j + 1 < end) continue;
            if (began) {
                begins[i] = sum;
            } else if (goes_on) {
                ends[i] = sum;
            } else {
                u64 place = row * width + column;
                store(out, place, load(out, place) + sum);
            }
            began = false;
            sum = 0.0f;
        }
    }
}

// Adds to `out` the rows whose updates are in several parts, each by the thread of the part where it begins.
template <typename T>
DEVICE void scatter_long(GLOBAL const u32 *sorted, GLOBAL const float *begins, GLOBAL const float *ends, GLOBAL T *out,
                         u64 count, u64 width, u64 each, Place at) {
    u64 parts = (count + each - 1) / each;
    for (u64 i = at.block * at.threads + at.index; i < parts * width; i += at.blocks * at.threads) {
        u64 part = i / width, next = (part + 1) * each;
        if (next >= count) continue;
        u32 row = sorted[next];
        // It goes on in the next part, and has not begun before this one.
        if (sorted[next - 1] != row) continue;
        if (part > 0 && sorted[part * each - 1] == row) continue;
        float sum = ends[i];
        for (; next < count && sorted[next] == row; next += each) sum += begins[next / each * width + i % width];
        u64 place = row * width + i % width;
        store(out, place, load(out, place) + sum);
    }
}

#define SCATTER(T, t)                                                                                              \
    KERNEL(scatter_parts_##t, GLOBAL const u32 *sorted, GLOBAL const T *updates, GLOBAL T *out,                    \
           GLOBAL float *begins, GLOBAL float *ends) {                                                             \
        scatter_parts(sorted, updates, out, begins, ends, NUMBER(0), NUMBER(1), NUMBER(2), HERE);                  \
    }                                                                                                              \
    KERNEL(scatter_long_##t, GLOBAL const u32 *sorted, GLOBAL const float *begins, GLOBAL const float *ends,       \
           GLOBAL T *out) {                                                                                        \
        scatter_long(sorted, begins, ends, out, NUMBER(0), NUMBER(1), NUMBER(2), HERE);                            \
    }
FLOATS(SCATTER)
