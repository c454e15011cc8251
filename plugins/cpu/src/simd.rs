//! Run-time choice of SIMD, and functions that vectorize.
//!
//! A function written with [`vectorized!`] is compiled twice, for any processor and for one with AVX2 and FMA
//! (other architectures have their vectors in the baseline), and the better one that the processor has is
//! called. What it calls in its loops is `inline(always)`, so that it is compiled along: a call that is not
//! inlined would be compiled for any processor, where a fused multiply-add is a slow library function.

use std::sync::LazyLock;

use pulp::Arch;

static ARCH: LazyLock<Arch> = LazyLock::new(Arch::new);

/// Whether the processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn has_avx2() -> bool {
    !matches!(*ARCH, Arch::Scalar)
}

/// What is used, for people.
pub fn level() -> &'static str {
    match *ARCH {
        Arch::Scalar => "baseline",
        #[cfg(target_arch = "x86_64")]
        _ => "avx2",
        #[cfg(not(target_arch = "x86_64"))]
        _ => "vectors of the baseline",
    }
}

macro_rules! vectorized {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $([$($param:ident : $bound:path),*])?
     ($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name $(<$($param: $bound),*>)? ($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body $(<$($param: $bound),*>)? ($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2 $(<$($param: $bound),*>)? ($($arg: $ty),*) $(-> $ret)? {
                    body $(::<$($param),*>)? ($($arg),*)
                }

                if $crate::simd::has_avx2() {
                    // SAFETY: the processor has these instructions.
                    #[allow(unsafe_code)]
                    return unsafe { avx2 $(::<$($param),*>)? ($($arg),*) };
                }
            }
            body $(::<$($param),*>)? ($($arg),*)
        }
    };
}
pub(crate) use vectorized;

/// e^x within 2 units in the last place, gradual underflow included.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // 2^n e^r with |r| <= ln 2 / 2; ln 2 in two parts so that r keeps its low bits.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < -104.0 { -104.0 } else { x };
    let clamped = if clamped > 89.0 { 89.0 } else { clamped };
    let n = clamped.mul_add(std::f32::consts::LOG2_E, ROUND) - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    let mut p = 1.392_625_1e-3;
    p = r.mul_add(p, 8.363_233e-3);
    p = r.mul_add(p, 4.166_655_4e-2);
    p = r.mul_add(p, 1.666_657_7e-1);
    p = r.mul_add(p, 0.5);
    let e = (r * r).mul_add(p, r) + 1.0;
    // Two factors, since 2^n alone may be out of range where the result is not. A NaN makes n anything; the
    // conversion saturates and e is NaN already.
    let n = to_int(n);
    let half = n >> 1;
    e * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// |x| is small; a plain conversion that vectorizes: the bits of x + 1.5 * 2^23.
#[inline(always)]
fn to_int(x: f32) -> i32 {
    ((x + 12_582_912.0).to_bits() as i32).wrapping_sub(0x4b40_0000)
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// tanh x within 3 units in the last place.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let z = x * x;
    let mut p = -6.045_165e-3;
    p = z.mul_add(p, 2.096_133e-2);
    p = z.mul_add(p, -5.384_326_3e-2);
    p = z.mul_add(p, 1.333_271_9e-1);
    p = z.mul_add(p, -3.333_332_8e-1);
    let small = (x * z).mul_add(p, x);
    let large = (1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0)).copysign(x);
    if x.abs() < 0.63 { small } else { large }
}

/// The error function within 3 units in the last place.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let z = x * x;
    let mut p = -9.584_755e-6;
    p = z.mul_add(p, 1.123_889_6e-4);
    p = z.mul_add(p, -8.480_603e-4);
    p = z.mul_add(p, 5.220_812e-3);
    p = z.mul_add(p, -2.686_536e-2);
    p = z.mul_add(p, 1.128_378_1e-1);
    p = z.mul_add(p, -3.761_263_8e-1);
    p = z.mul_add(p, 1.283_791_7e-1);
    let small = x.mul_add(p, x);
    // 1 - e^q with q a polynomial for the logarithm of the complement; beyond 4.1 that is 1.
    let t = x.abs();
    let t = if t > 4.1 { 4.1 } else { t };
    let mut q = 1.594_001_2e-6;
    q = t.mul_add(q, -4.522_831_5e-5);
    q = t.mul_add(q, 5.900_144e-4);
    q = t.mul_add(q, -4.728_751_6e-3);
    q = t.mul_add(q, 2.633_626_6e-2);
    q = t.mul_add(q, -1.099_354_5e-1);
    q = t.mul_add(q, -6.319_749_6e-1);
    q = t.mul_add(q, -1.130_148_8);
    q = t.mul_add(q, 2.998_213_2e-4);
    let large = (1.0 - exp(q)).copysign(x);
    if t < 1.0 || x.is_nan() { small } else { large }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The larger; a NaN wins.
#[inline(always)]
pub fn max(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

/// The smaller; a NaN wins.
#[inline(always)]
pub fn min(a: f32, b: f32) -> f32 {
    if a < b || a.is_nan() { a } else { b }
}

const LANES: usize = 16;

/// Adds up f(i) for i below `count`, in a fixed order that vectorizes.
#[inline(always)]
pub fn sum(count: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let whole = count / LANES * LANES;
    let mut i = 0;
    while i < whole {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += f(i + lane);
        }
        i += LANES;
    }
    let mut rest = 0.0;
    while i < count {
        rest += f(i);
        i += 1;
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0] + rest
}

/// The largest element of a slice; a NaN wins.
#[inline(always)]
pub fn max_of(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder().iter().fold(f32::NEG_INFINITY, |a, &b| max(a, b));
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = max(*lane, x);
        }
    }
    lanes.iter().fold(rest, |a, &b| max(a, b))
}

/// The sum of a long slice: f32 within short pieces, f64 across them.
#[inline(always)]
pub fn long_sum(values: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    values.chunks(512).map(|piece| f64::from(sum(piece.len(), |i| f(piece[i])))).sum()
}

/// The sum of the products of two long slices, added up like [`long_sum`].
#[inline(always)]
pub fn long_dot(a: &[f32], b: &[f32]) -> f64 {
    let mut dot = 0.0;
    for (a, b) in a.chunks(512).zip(b.chunks(512)) {
        dot += f64::from(sum(a.len().min(b.len()), |i| a[i] * b[i]));
    }
    dot
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulps(got: f32, want: f64) -> f64 {
        let nearest = want as f32;
        let step = (f64::from(f32::from_bits(nearest.abs().to_bits() + 1)) - f64::from(nearest.abs())).abs();
        (f64::from(got) - want).abs() / step
    }

    /// A Taylor sum in f64, good to 1e-15 relative where it is used here.
    fn erf_f64(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    /// Conformance tolerances assume that these are good to a few units in the last place.
    #[test]
    fn functions_are_accurate() {
        for i in -40_000..=40_000i32 {
            let x = i as f32 * 0.0021;
            let e = ulps(exp(x), f64::from(x).exp());
            assert!(e <= 2.0, "exp {x}: {e}");
            let e = ulps(tanh(x), f64::from(x).tanh());
            assert!(e <= 3.0, "tanh {x}: {e}");
            if x.abs() < 4.0 {
                let e = ulps(erf(x), erf_f64(f64::from(x)));
                assert!(e <= 3.0, "erf {x}: {e}");
            }
        }
    }

    #[test]
    fn functions_keep_their_limits() {
        assert_eq!((exp(f32::NEG_INFINITY), exp(f32::INFINITY), exp(0.0)), (0.0, f32::INFINITY, 1.0));
        assert_eq!((exp(-200.0), exp(200.0)), (0.0, f32::INFINITY));
        assert!(ulps(exp(-100.0), (-100.0f64).exp()) <= 1.0, "gradual underflow");
        assert_eq!((tanh(f32::INFINITY), tanh(-30.0), erf(-f32::INFINITY), erf(5.0)), (1.0, -1.0, -1.0, 1.0));
        assert!(exp(f32::NAN).is_nan() && tanh(f32::NAN).is_nan() && erf(f32::NAN).is_nan());
        assert!(max(1.0, f32::NAN).is_nan() && max(f32::NAN, 1.0).is_nan() && min(f32::NAN, 1.0).is_nan());
        assert_eq!((tanh(1e-20), erf(0.0)), (1e-20, 0.0));
    }
}
