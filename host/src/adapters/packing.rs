//! Small trained tensors one after another in few vectors.
//!
//! An adapter on every linear layer is hundreds of small tensors. With an argument for each of them, and for its
//! gradient and both moments, most of the optimizer's step would be the overhead of thousands of small ops. Packed,
//! AdamW is one op for all. Tensors that the model multiplies with the same factor are packed together, so that this is
//! one op, too. Files and names are as without it.

use std::collections::BTreeMap;

use finetune_plugin_api::program::{Builder, DType, ValueId};

/// The most elements of a pack: gradients are kept until their pack is complete.
const MOST: usize = 1 << 24;
/// Every tensor begins at a multiple of so many elements, as matrix products like it. What is between is zero.
const ALIGN: usize = 64;

/// Which tensors lie where. A pack is a state argument `f32[elements]` of its own name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Packing {
    packs: Vec<Pack>,
    places: BTreeMap<String, Place>,
}

/// Tensors in one vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Pack {
    /// As the programs' state has it.
    pub name: String,
    /// Elements, fillers included.
    pub elements: usize,
    /// What its tensors are multiplied with where the model reads them.
    pub scale: f64,
    /// The names of its tensors, in order.
    pub members: Vec<String>,
}

/// Where a tensor is.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// The number of its pack.
    pub pack: usize,
    /// Elements before it.
    pub offset: usize,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl Place {
    /// Elements of the tensor.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Packing {
    /// Packs tensors, each with its shape and factor, in their order. One that is large by itself stays by itself.
    pub fn of(tensors: impl IntoIterator<Item = (String, Vec<usize>, f64)>) -> Packing {
        let mut packing = Packing::default();
        for (name, shape, scale) in tensors {
            let elements: usize = shape.iter().product();
            if elements > MOST {
                continue;
            }
            let begin = |pack: &Pack| pack.elements.next_multiple_of(ALIGN);
            let last = packing.packs.iter().rposition(|pack| pack.scale == scale);
            let number = match last.filter(|&number| begin(&packing.packs[number]) + elements <= MOST) {
                Some(number) => number,
                None => {
                    // `#` stands in no tensor's name.
                    let name = format!("#adapters.{}", packing.packs.len());
                    packing.packs.push(Pack { name, elements: 0, scale, members: Vec::new() });
                    packing.packs.len() - 1
                }
            };
            let pack = &mut packing.packs[number];
            let offset = begin(pack);
            pack.elements = offset + elements;
            pack.members.push(name.clone());
            packing.places.insert(name, Place { pack: number, offset, shape });
        }
        packing
    }

    /// The packs.
    pub fn packs(&self) -> &[Pack] {
        &self.packs
    }

    /// Where a tensor is, if it is packed.
    pub fn place(&self, name: &str) -> Option<&Place> {
        self.places.get(name)
    }

    /// The pack in which a tensor is, if it is packed.
    pub fn pack_of(&self, name: &str) -> Option<&Pack> {
        self.place(name).map(|place| &self.packs[place.pack])
    }

    /// The pack of that name.
    pub fn pack(&self, name: &str) -> Option<&Pack> {
        self.packs.iter().find(|pack| pack.name == name)
    }
}

/// A tensor out of its pack, of any float type: a view where the back end has views.
pub fn unpack(b: &mut Builder, packed: ValueId, place: &Place) -> ValueId {
    let flat = b.slice(packed, &[place.offset], &[place.elements()]);
    b.reshape(flat, &place.shape)
}

/// Values for the tensors of packs, as they come.
pub struct Gathering<'a> {
    packing: &'a Packing,
    found: Vec<BTreeMap<usize, ValueId>>,
}

impl<'a> Gathering<'a> {
    /// Nothing yet.
    pub fn new(packing: &'a Packing) -> Gathering<'a> {
        Gathering { packing, found: vec![BTreeMap::new(); packing.packs.len()] }
    }

    /// Takes the value for a tensor. With the last of a pack comes the pack, `[elements]`, in the values' type.
    pub fn put<'b>(
        &'b mut self,
        b: &mut Builder,
        place: &Place,
        value: ValueId,
    ) -> Option<(&'a Pack, ValueId)> {
        let flat = b.reshape(value, &[place.elements()]);
        let (pack, found) = (&self.packing.packs[place.pack], &mut self.found[place.pack]);
        found.insert(place.offset, flat);
        if found.len() < pack.members.len() {
            return None;
        }
        let (mut parts, mut end) = (Vec::new(), 0);
        for (&offset, &value) in &*found {
            if offset > end {
                parts.push(filler(b, offset - end, b.dtype(value)));
            }
            parts.push(value);
            end = offset + b.ty(value).elements();
        }
        let packed = if parts.len() == 1 { parts[0] } else { b.concat(&parts, 0) };
        Some((pack, packed))
    }
}

fn filler(b: &mut Builder, elements: usize, dtype: DType) -> ValueId {
    let zero = b.constant(0.0, dtype);
    b.broadcast(zero, &[elements])
}

#[cfg(test)]
mod tests {
    use finetune_plugin_api::program::TensorType;

    use super::*;

    fn packing(sizes: &[usize]) -> Packing {
        Packing::of(sizes.iter().enumerate().map(|(i, &size)| (format!("t{i}"), vec![size], 1.0)))
    }

    /// Tensors keep their order, begin at multiples of 64 elements, and never share an element.
    #[test]
    fn tensors_lie_one_after_another() {
        let packing = packing(&[64, 3, 130, 1]);
        let offsets: Vec<_> = (0..4).map(|i| packing.place(&format!("t{i}")).unwrap().offset).collect();
        assert_eq!(offsets, [0, 64, 128, 320]);
        assert_eq!(packing.packs().len(), 1);
        assert_eq!(packing.packs()[0].elements, 321);
        assert_eq!(packing.pack_of("t3").unwrap().name, "#adapters.0");
    }

    /// Gradients wait for the last of their pack, so packs are bounded.
    #[test]
    fn what_is_large_stays_by_itself_and_packs_are_bounded() {
        let packing = packing(&[MOST / 2, MOST + 1, MOST / 2, 1]);
        assert_eq!(packing.place("t1"), None);
        assert_eq!(packing.place("t2").unwrap().pack, 0);
        let last = packing.place("t3").unwrap();
        assert_eq!((last.pack, last.offset), (1, 0));
    }

    #[test]
    fn tensors_of_one_factor_are_together() {
        let factors = [1.0, 2.0, 1.0, 2.0].into_iter().enumerate();
        let packing = Packing::of(factors.map(|(i, factor)| (format!("t{i}"), vec![8], factor)));
        let members: Vec<_> =
            packing.packs().iter().map(|pack| (pack.scale, pack.members.join(" "))).collect();
        assert_eq!(members, [(1.0, "t0 t2".into()), (2.0, "t1 t3".into())]);
    }

    /// What is gathered in any order is what unpacking reads.
    #[test]
    fn gathering_is_the_inverse_of_unpacking() {
        let tensors = [("a", vec![2, 2]), ("b", vec![3]), ("c", vec![64])];
        let packing = Packing::of(tensors.map(|(name, shape)| (name.into(), shape, 1.0)));
        let mut b = Builder::new();
        let packed = b.input("packed", TensorType::new(DType::F32, &[packing.packs()[0].elements]));
        let mut gathering = Gathering::new(&packing);
        let mut whole = None;
        for name in ["c", "a", "b"] {
            let place = packing.place(name).unwrap().clone();
            let value = unpack(&mut b, packed, &place);
            assert!(whole.is_none());
            whole = gathering.put(&mut b, &place, value);
        }
        b.output("again", whole.unwrap().1);
        let program = b.finish().unwrap();
        let elements = packing.packs()[0].elements;
        let mut values = vec![0.0; elements];
        for name in ["a", "b", "c"] {
            let place = packing.place(name).unwrap();
            (0..place.elements()).for_each(|i| values[place.offset + i] = (place.offset + i) as f64 + 1.0);
        }
        use finetune_plugin_api::reference::{Rounding, Tensor, run_named};
        let tensor = Tensor::float(DType::F32, &[elements], values.clone()).unwrap();
        let outcome = run_named(&program, &[("packed", tensor)], Rounding::Storage).unwrap();
        assert_eq!(outcome.output(&program, "again").unwrap().floats(), values);
    }
}
