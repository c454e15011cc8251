/// A table that names its entries by numbers and never gives a number to two entries: a stale one finds
/// nothing. The low half of a number is the position plus one, the high half counts the position's tenants.
pub(super) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

struct Slot<T> {
    tenant: u32,
    entry: Option<T>,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Slab<T> {
        Slab { slots: Vec::new(), free: Vec::new() }
    }

    pub(super) fn insert(&mut self, entry: T) -> u64 {
        let position = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { tenant: 0, entry: None });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[position as usize];
        slot.entry = Some(entry);
        (u64::from(slot.tenant) << 32) | (u64::from(position) + 1)
    }

    pub(super) fn get(&self, handle: u64) -> Option<&T> {
        let slot = &self.slots[self.position(handle)?];
        slot.entry.as_ref()
    }

    pub(super) fn get_mut(&mut self, handle: u64) -> Option<&mut T> {
        let position = self.position(handle)?;
        self.slots[position].entry.as_mut()
    }

    pub(super) fn remove(&mut self, handle: u64) -> Option<T> {
        let position = self.position(handle)?;
        let slot = &mut self.slots[position];
        let entry = slot.entry.take()?;
        // A position whose tenants can be counted no further is given up, so that no number comes twice.
        if let Some(next) = slot.tenant.checked_add(1) {
            slot.tenant = next;
            self.free.push(position as u32);
        }
        Some(entry)
    }

    /// Takes an entry out for a while; [`Slab::put_back`] must follow. The handle finds nothing meanwhile.
    pub(super) fn take(&mut self, handle: u64) -> Option<T> {
        let position = self.position(handle)?;
        self.slots[position].entry.take()
    }

    pub(super) fn put_back(&mut self, handle: u64, entry: T) {
        let position = self.position(handle).expect("the handle of an entry that was taken out");
        self.slots[position].entry = Some(entry);
    }

    pub(super) fn entries_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().filter_map(|slot| slot.entry.as_mut())
    }

    pub(super) fn into_entries(self) -> impl Iterator<Item = T> {
        self.slots.into_iter().filter_map(|slot| slot.entry)
    }

    fn position(&self, handle: u64) -> Option<usize> {
        let position = (handle & u64::from(u32::MAX)).checked_sub(1)? as usize;
        let slot = self.slots.get(position)?;
        (u64::from(slot.tenant) == handle >> 32).then_some(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A freed buffer's handle must not reach the buffer that took its place.
    #[test]
    fn a_stale_handle_finds_nothing() {
        let mut slab = Slab::new();
        let first = slab.insert("first");
        assert_ne!(first, 0);
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"second"));
        for nonsense in [0, 2, u64::MAX, second + (1 << 32)] {
            assert_eq!(slab.get(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn an_entry_taken_out_comes_back_under_its_handle() {
        let mut slab = Slab::new();
        let handle = slab.insert(5);
        assert_eq!(slab.take(handle), Some(5));
        assert_eq!(slab.get(handle), None);
        slab.put_back(handle, 6);
        assert_eq!(slab.get(handle), Some(&6));
    }
}
