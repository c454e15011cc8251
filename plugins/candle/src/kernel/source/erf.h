// The error function, for preludes whose own mathematics lacks it (Metal's) and, so that it is tested, the host's.
// A polynomial near 0, and beyond that 1 - e^(a polynomial): minimax fits, within two units in the last place.
#pragma once
DEVICE float m_erf(float x) {
    float t = m_abs(x), s = x * x;
    if (t > 0.927734375f) {
        float r = m_fma(-1.72853470e-5f, t, 3.83197126e-4f);
        float u = m_fma(-3.88396438e-3f, t, 2.42546219e-2f);
        r = m_fma(r, s, u);
        r = m_fma(r, t, -1.06777877e-1f);
        r = m_fma(r, t, -6.34846687e-1f);
        r = m_fma(r, t, -1.28717512e-1f);
        r = m_fma(r, t, -t);
        r = 1.0f - m_exp(r);
        return x < 0.0f ? -r : r;
    }
    float r = -5.96761703e-4f;
    r = m_fma(r, s, 4.99119423e-3f);
    r = m_fma(r, s, -2.67681349e-2f);
    r = m_fma(r, s, 1.12819925e-1f);
    r = m_fma(r, s, -3.76125336e-1f);
    r = m_fma(r, s, 1.28379166e-1f);
    return m_fma(r, x, x);
}
