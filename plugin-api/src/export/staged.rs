//! Buffers of back ends whose tensors are made whole: the host may write them in parts.

use std::cell::RefCell;

use super::Error;
use crate::program::TensorType;

/// What a buffer holds: nothing yet, bytes of which the host has written some, or the back end's own tensor `T`, a
/// handle that is cheap to clone.
///
/// A call that fails leaves what was there.
pub struct Staged<T> {
    ty: TensorType,
    contents: RefCell<Contents<T>>,
}

enum Contents<T> {
    /// Nothing was written. Takes no memory: an output's tensor comes with the first run.
    Empty,
    /// Being written in parts; what was not is zero.
    Parts(Vec<u8>),
    Whole(T),
}

impl<T: Clone> Staged<T> {
    /// A buffer of that type in which nothing was written.
    pub fn empty(ty: &TensorType) -> Staged<T> {
        Staged { ty: ty.clone(), contents: RefCell::new(Contents::Empty) }
    }

    /// Its type.
    pub fn ty(&self) -> &TensorType {
        &self.ty
    }

    /// Holds this tensor from now on.
    pub fn set(&self, tensor: T) {
        self.contents.replace(Contents::Whole(tensor));
    }

    /// Holds nothing from now on, so that what it held alone is freed.
    pub fn clear(&self) {
        self.contents.replace(Contents::Empty);
    }

    /// The tensor. If there is none, `make` makes it, of the bytes that were written or, given none, of zeros; it is kept.
    pub fn get(&self, make: impl FnOnce(Option<&[u8]>) -> Result<T, Error>) -> Result<T, Error> {
        let mut contents = self.contents.borrow_mut();
        let tensor = match &*contents {
            Contents::Whole(tensor) => return Ok(tensor.clone()),
            Contents::Empty => make(None)?,
            Contents::Parts(bytes) => make(Some(bytes))?,
        };
        *contents = Contents::Whole(tensor.clone());
        Ok(tensor)
    }

    /// Writes bytes from the byte `offset` on. `make` makes a tensor of all bytes; `read` reads all of a tensor's, where
    /// only a part of it is written.
    pub fn upload(
        &mut self,
        offset: usize,
        bytes: &[u8],
        make: impl FnOnce(&[u8]) -> Result<T, Error>,
        read: impl FnOnce(&T, &mut [u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let total = self.ty.bytes();
        let contents = self.contents.get_mut();
        if offset == 0 && bytes.len() == total {
            *contents = Contents::Whole(make(bytes)?);
            return Ok(());
        }
        let end = offset.checked_add(bytes.len()).filter(|&end| end <= total);
        let end = end.ok_or_else(|| Error::outside(offset, bytes.len()))?;
        if !matches!(contents, Contents::Parts(_)) {
            let mut parts = zeros(&self.ty)?;
            if let Contents::Whole(tensor) = contents {
                read(tensor, &mut parts)?;
            }
            *contents = Contents::Parts(parts);
        }
        if let Contents::Parts(parts) = contents {
            parts[offset..end].copy_from_slice(bytes);
            // The last part of a tensor that comes in parts: it need not be held twice until it is used.
            if end == total {
                *contents = Contents::Whole(make(parts)?);
            }
        }
        Ok(())
    }
}

/// Bytes for a tensor that comes in parts, in main memory.
fn zeros(ty: &TensorType) -> Result<Vec<u8>, Error> {
    let (total, mut bytes) = (ty.bytes(), Vec::new());
    let none = |_| Error::out_of_memory(format!("there are no {total} bytes for the parts of a tensor {ty}"));
    bytes.try_reserve_exact(total).map_err(none)?;
    bytes.resize(total, 0);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::program::DType;

    type Tensor = Rc<Vec<u8>>;

    fn buffer() -> Staged<Tensor> {
        Staged::empty(&TensorType::new(DType::U32, &[2]))
    }

    fn make(bytes: &[u8]) -> Result<Tensor, Error> {
        Ok(Rc::new(bytes.to_vec()))
    }

    fn read(tensor: &Tensor, into: &mut [u8]) -> Result<(), Error> {
        into.copy_from_slice(tensor);
        Ok(())
    }

    fn held(buffer: &Staged<Tensor>) -> Vec<u8> {
        let made = buffer.get(|bytes| make(bytes.unwrap_or(&[0; 8])));
        made.unwrap().to_vec()
    }

    /// Parts in any order, over nothing, over other parts and over a whole.
    #[test]
    fn parts_are_put_together() {
        let mut buffer = buffer();
        assert_eq!(held(&buffer), [0; 8]);
        buffer.clear();
        buffer.upload(4, &[5, 6], make, read).unwrap();
        buffer.upload(0, &[1], make, read).unwrap();
        assert_eq!(held(&buffer), [1, 0, 0, 0, 5, 6, 0, 0]);
        buffer.upload(6, &[7, 8], make, read).unwrap();
        assert_eq!(held(&buffer), [1, 0, 0, 0, 5, 6, 7, 8]);
        buffer.upload(0, &[9; 8], make, |_, _| panic!("all of it is written")).unwrap();
        assert_eq!(held(&buffer), [9; 8]);
    }

    #[test]
    fn what_fails_leaves_what_was_there() {
        let mut buffer = buffer();
        let none = |_: &[u8]| Err(Error::out_of_memory("none"));
        buffer.upload(0, &[1; 8], make, read).unwrap();
        assert!(buffer.upload(0, &[2; 8], none, read).is_err());
        assert!(buffer.upload(2, &[2], make, |_, _| Err(Error::internal("lost"))).is_err());
        assert!(buffer.upload(7, &[2, 2], make, read).is_err());
        assert!(buffer.upload(usize::MAX, &[2, 2], make, read).is_err());
        assert_eq!(held(&buffer), [1; 8]);
        assert!(buffer.upload(6, &[3, 3], none, read).is_err());
        assert_eq!(held(&buffer), [1, 1, 1, 1, 1, 1, 3, 3], "the part is kept, to be made a tensor of later");
    }
}
