//! Decay by half-lives, in integers. Uses no floating point: `exp` differs between machines.

use crate::span::Span;

/// 2^-(2^-k) for k = 1 to 16, as fractions of 2^63, truncated.
const ROOTS: [u64; 16] = [
    0x5a82_7999_fcef_3242,
    0x6ba2_7e65_6b4e_b57a,
    0x7560_6373_ee92_1c97,
    0x7a92_be8a_9243_6616,
    0x7d41_d96d_b915_019d,
    0x7e9f_0606_7a43_60ba,
    0x7f4f_08ae_3dc7_c425,
    0x7fa7_65ac_a88f_6452,
    0x7fd3_ab29_0e46_d768,
    0x7fe9_d3a8_e07b_f085,
    0x7ff4_e959_7bed_93aa,
    0x7ffa_748d_ff8d_c61e,
    0x7ffd_3a3f_5002_0332,
    0x7ffe_9d1d_bc0a_75a9,
    0x7fff_4e8e_6306_ed58,
    0x7fff_a747_12c3_cdfd,
];

/// The rest of `value` after `age` if it halves every `half_life`: value * 2^(-age / half_life), rounded down.
///
/// The exponent is truncated to 1/65536 of a half-life. The result never grows with age, is exactly `value` at age zero
/// and exactly half at one half-life, and is the same on every machine. With a `half_life` of zero, nothing is left
/// after age zero. Costs at most 16 multiplications.
pub fn decay(value: u32, age: Span, half_life: Span) -> u32 {
    let (age, half_life) = (age.as_millis(), half_life.as_millis());
    if age == 0 {
        return value;
    }
    if half_life == 0 || age / half_life >= 32 {
        return 0;
    }
    // Below 2^16, because the remainder is smaller than the half-life.
    let part = ((u128::from(age % half_life) << 16) / u128::from(half_life)) as u32;
    let mut left = 1u64 << 63;
    for (k, root) in ROOTS.iter().enumerate() {
        if part & (1 << (15 - k)) != 0 {
            left = ((u128::from(left) * u128::from(*root)) >> 63) as u64;
        }
    }
    (((u128::from(value) * u128::from(left)) >> 63) >> (age / half_life)) as u32
}
