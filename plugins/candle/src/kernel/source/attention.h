// What attention does between its matrix products: masked softmax over rows of scores, and its gradient. Rows are
// [heads, queries] of one row of the batch; a block has a row at a time.
#pragma once
#include "dialect.h"

// Which keys a query sees.
struct Seen {
    u64 first, end;
    u32 segment;
};

DEVICE Seen seen_of(u64 query, u64 start, u64 valid, u64 keys, bool causal, u64 window, bool segmented,
                    GLOBAL const u32 *segments) {
    u64 place = start + query;
    Seen seen;
    seen.end = valid < keys ? valid : keys;
    if (causal && seen.end > place + 1) seen.end = place + 1;
    seen.first = window != 0 && place + 1 > window ? place + 1 - window : 0;
    if (seen.first > seen.end) seen.first = seen.end;
    seen.segment = segmented ? segments[place < keys ? place : keys - 1] : 0;
    return seen;
}

DEVICE bool sees(Seen seen, u64 key, bool segmented, GLOBAL const u32 *segments) {
    return key >= seen.first && key < seen.end && (!segmented || segments[key] == seen.segment);
}

// The largest score that is seen and the sum of e^(score - largest).
struct Scores {
    float most, sum;
};

DEVICE Scores scores_of(GLOBAL const float *row, Seen seen, bool segmented, GLOBAL const u32 *segments,
                        SHARED float *scratch, Place at) {
    Scores all;
    float most = -m_inf, sum = 0.0f;
    for (u64 key = seen.first + at.index; key < seen.end; key += at.threads)
        if (sees(seen, key, segmented, segments)) most = m_max(most, row[key]);
    all.most = block_max(most, scratch, at);
    for (u64 key = seen.first + at.index; key < seen.end; key += at.threads)
        if (sees(seen, key, segmented, segments)) sum += m_exp(row[key] - all.most);
    all.sum = block_sum(sum, scratch, at);
    return all;
}

// Scores f32[heads, queries, keys] become probabilities in their place; a row of T begins where its row of scores
// begins (`pitch` elements of T from row to row), and a block writes elements once it has read all up to them.
// Numbers: heads of the chunk, queries of the chunk, keys, pitch, first query, causal, window, segmented, row of the
// batch, queries of a row of lse, heads of the chunk lie so many heads apart, first head, heads of a row of lse.
template <typename T>
DEVICE void attend(GLOBAL const float *scores, GLOBAL const u32 *start, GLOBAL const u32 *valid,
                   GLOBAL const u32 *segments, GLOBAL float *lse, GLOBAL T *p, u64 heads, u64 queries, u64 keys,
                   u64 pitch, u64 first_query, bool causal, u64 window, bool segmented, u64 batch, u64 all_queries,
                   u64 head_step, u64 first_head, u64 all_heads, SHARED float *scratch, Place at) {
    GLOBAL const u32 *own = segments + (segmented ? batch * keys : 0);
    for (u64 work = at.block; work < heads * queries; work += at.blocks) {
        u64 head = work / queries, query = first_query + work % queries;
        GLOBAL const float *row = scores + work * keys;
        Seen seen = seen_of(query, start[batch], valid[batch], keys, causal, window, segmented, own);
        Scores all = scores_of(row, seen, segmented, own, scratch, at);
        if (at.index == 0) {
            u64 place = (batch * all_heads + first_head + head * head_step) * all_queries + query;
            lse[place] = all.sum > 0.0f ? all.most + m_log(all.sum) : -m_inf;
        }
        for (u64 first = 0; first < keys; first += at.threads) {
            u64 key = first + at.index;
            bool is_seen = key < keys && sees(seen, key, segmented, own);
            float value = is_seen ? m_exp(row[key] - all.most) / all.sum : 0.0f;
            BARRIER();
            if (key < keys) store(p, work * pitch + key, value);
        }
        BARRIER();
    }
}

// Scores become probabilities in their place, as above, and products dout v^T the gradient of the products q k^T.
// delta, the mean of those products, is dout out where `out` [B, T, H, width] is known, as in the forward op's rounding.
// Numbers: those above, and the channels of out, 0 if it is not known; reals: scale.
template <typename T, typename P>
DEVICE void attend_grad(GLOBAL const float *scores, GLOBAL const float *dp, GLOBAL const u32 *start,
                        GLOBAL const u32 *valid, GLOBAL const u32 *segments, GLOBAL const T *dout, GLOBAL const T *out,
                        GLOBAL P *p, GLOBAL P *ds, u64 heads, u64 queries, u64 keys, u64 pitch, u64 first_query,
                        bool causal, u64 window, bool segmented, u64 batch, u64 all_queries, u64 head_step,
                        u64 first_head, u64 all_heads, u64 width, float scale, SHARED float *scratch, Place at) {
    GLOBAL const u32 *own = segments + (segmented ? batch * keys : 0);
    for (u64 work = at.block; work < heads * queries; work += at.blocks) {
        u64 head = work / queries, query = first_query + work % queries;
        GLOBAL const float *row = scores + work * keys, *slopes = dp + work * keys;
        Seen seen = seen_of(query, start[batch], valid[batch], keys, causal, window, segmented, own);
        Scores all = scores_of(row, seen, segmented, own, scratch, at);
        float delta = 0.0f;
        if (width != 0) {
            u64 place = ((batch * all_queries + query) * all_heads + first_head + head * head_step) * width;
            for (u64 i = at.index; i < width; i += at.threads) delta += load(dout, place + i) * load(out, place + i);
        } else {
            for (u64 key = seen.first + at.index; key < seen.end; key += at.threads)
                if (sees(seen, key, segmented, own)) delta += m_exp(row[key] - all.most) * slopes[key];
        }
        delta = block_sum(delta, scratch, at);
        if (width == 0 && all.sum > 0.0f) delta /= all.sum;
        for (u64 first = 0; first < keys; first += at.threads) {
            u64 key = first + at.index;
            bool is_seen = key < keys && sees(seen, key, segmented, own);
            float value = is_seen ? m_exp(row[key] - all.most) / all.sum : 0.0f;
            float slope = is_seen ? value * (slopes[key] - delta) * scale : 0.0f;
            BARRIER();
            if (key < keys) {
                store(p, work * pitch + key, value);
                store(ds, work * pitch + key, slope);
            }
        }
        BARRIER();
    }
}

#define ATTEND(T, t)                                                                                               \
    KERNEL(attend_##t, GLOBAL const float *scores, GLOBAL const u32 *start, GLOBAL const u32 *valid,               \
           GLOBAL const u32 *segments, GLOBAL float *lse, GLOBAL T *p) {                                           \
        SHARED_FLOATS(scratch, 32);                                                                                \
        attend(scores, start, valid, segments, lse, p, NUMBER(0), NUMBER(1), NUMBER(2), NUMBER(3), NUMBER(4),      \
               NUMBER(5) != 0, NUMBER(6), NUMBER(7) != 0, NUMBER(8), NUMBER(9), NUMBER(10), NUMBER(11), NUMBER(12),\
               scratch, HERE);                                                                                     \
    }
FLOATS(ATTEND)

// What replaces the scores is of the type of the operands, or stays f32.
#define ATTEND_GRAD(T, t, P, p_)                                                                                   \
    KERNEL(attend_grad_##t##_##p_, GLOBAL const float *scores, GLOBAL const float *dp, GLOBAL const u32 *start,           \
           GLOBAL const u32 *valid, GLOBAL const u32 *segments, GLOBAL const T *dout, GLOBAL const T *out,         \
           GLOBAL P *p, GLOBAL P *ds) {                                                                            \
        SHARED_FLOATS(scratch, 32);                                                                                \
        attend_grad(scores, dp, start, valid, segments, dout, out, p, ds, NUMBER(0), NUMBER(1), NUMBER(2),         \
                    NUMBER(3), NUMBER(4), NUMBER(5) != 0, NUMBER(6), NUMBER(7) != 0, NUMBER(8), NUMBER(9),         \
                    NUMBER(10), NUMBER(11), NUMBER(12), NUMBER(13), REAL(0), scratch, HERE);                       \
    }
ATTEND_GRAD(float, f32, float, f32)
ATTEND_GRAD(f16, f16, f16, f16)
ATTEND_GRAD(bf16, bf16, bf16, bf16)
ATTEND_GRAD(f16, f16, float, f32)
ATTEND_GRAD(bf16, bf16, float, f32)
