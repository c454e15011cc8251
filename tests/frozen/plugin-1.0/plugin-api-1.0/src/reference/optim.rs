//! The optimizer's ops.

use super::call::Call;
use super::tensor::Values;

pub(super) fn sum_squares(call: &Call<'_>) -> Vec<Values> {
    vec![Values::Float(vec![call.floats(0).iter().map(|x| x * x).sum()])]
}

pub(super) fn adamw(call: &Call<'_>) -> Vec<Values> {
    let [beta1, beta2, eps, weight_decay] =
        ["beta1", "beta2", "eps", "weight_decay"].map(|name| call.attrs.get_float(name));
    let [scale, lr, correction1, correction2] = [4, 5, 6, 7].map(|operand| call.floats(operand)[0]);
    let [mut param, mut m, mut v] = [0, 1, 2].map(|operand| call.floats(operand).to_vec());
    for (i, grad) in call.floats(3).iter().enumerate() {
        let g = scale * grad;
        m[i] = beta1 * m[i] + (1.0 - beta1) * g;
        v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
        let change = lr / correction1 * m[i] / (v[i].sqrt() / correction2.sqrt() + eps);
        param[i] = param[i] * (1.0 - lr * weight_decay) - change;
    }
    vec![Values::Float(param), Values::Float(m), Values::Float(v)]
}
