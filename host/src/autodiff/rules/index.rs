//! Ops whose positions are run-time values. Indices and positions have no gradient.

use finetune_plugin_api::program::{Attrs, Builder, Op, ValueId};

use crate::autodiff::Site;
use crate::autodiff::gradient::Gradient;

type Gradients = Vec<Option<ValueId>>;

pub fn gather(b: &mut Builder, site: &Site<'_>, so_far: Option<Gradient>) -> Gradient {
    let dy = site.dy(b);
    let base = match so_far {
        Some(so_far) => so_far.value(b, site.x(0)),
        None => b.full_like(0.0, site.x(0)),
    };
    Gradient::Value(b.apply(Op::ScatterAdd, &[base, site.x(1), dy], Attrs::none()))
}

pub fn scatter_add(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let dy = site.dy(b);
    let dupdates = site.needs[2].then(|| b.apply(Op::Gather, &[dy, site.x(1)], Attrs::none()));
    vec![site.needs[0].then_some(dy), None, dupdates]
}

pub fn dynamic_slice(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let dy = site.dy(b);
    let zero = b.full_like(0.0, site.x(0));
    let attrs = Attrs::none().int("axis", site.node.attrs.get_int("axis"));
    vec![Some(b.apply(Op::UpdateSlice, &[zero, dy, site.x(1)], attrs)), None]
}

/// What was written over has no part in the result.
pub fn update_slice(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let (dy, start) = (site.dy(b), site.x(2));
    let axis = site.node.attrs.get_int("axis");
    let dbase = site.needs[0].then(|| {
        let zero = b.full_like(0.0, site.x(1));
        b.apply(Op::UpdateSlice, &[dy, zero, start], Attrs::none().int("axis", axis))
    });
    let dupdate = site.needs[1].then(|| {
        let size = b.ty(site.x(1)).shape[axis];
        b.apply(Op::DynamicSlice, &[dy, start], Attrs::none().int("axis", axis).int("size", size))
    });
    vec![dbase, dupdate, None]
}
