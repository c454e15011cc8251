use super::Error;

/// What is known about the contents of a buffer.
#[derive(Debug)]
pub(super) struct Contents {
    /// Why they are not to be used.
    poison: Option<String>,
    /// How much of a poisoned buffer has been uploaded again, from the start: disjoint ranges in order.
    mended: Vec<(usize, usize)>,
    /// Written by a run that no `synchronize` has confirmed.
    unfinished: bool,
}

impl Contents {
    /// Of a new buffer. Reading one that was never written is allowed: it is the host's business that what it
    /// holds means nothing.
    pub(super) fn new() -> Contents {
        Contents { poison: None, mended: Vec::new(), unfinished: false }
    }

    pub(super) fn poison(&mut self, error: &Error) {
        // The first reason is the cause; later ones are its consequences.
        self.poison.get_or_insert_with(|| error.message().to_string());
        self.mended.clear();
        self.unfinished = false;
    }

    /// Why the contents are not to be used, as the end of a sentence.
    pub(super) fn check(&self) -> Result<(), String> {
        match &self.poison {
            None => Ok(()),
            Some(why) => Err(format!(
                "is poisoned by a call that failed ({why}); upload all of it again before it is used"
            )),
        }
    }

    /// The bytes from `start` to `end` of `size` were uploaded.
    pub(super) fn written(&mut self, start: usize, end: usize, size: usize) {
        if self.poison.is_none() || start == end {
            return;
        }
        self.mended.push((start, end));
        self.mended.sort_unstable();
        let mut joined: Vec<(usize, usize)> = Vec::with_capacity(self.mended.len());
        for &(start, end) in &self.mended {
            match joined.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => joined.push((start, end)),
            }
        }
        self.mended = joined;
        if self.mended == [(0, size)] {
            self.poison = None;
            self.mended.clear();
        }
    }

    /// A run returned that writes them; it is certain to have done so if `finished`. As an output, all of them.
    pub(super) fn run_over(&mut self, output: bool, finished: bool) {
        if output {
            self.poison = None;
            self.mended.clear();
        }
        self.unfinished = !finished;
    }

    pub(super) fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    pub(super) fn finished(&mut self) {
        self.unfinished = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half-restored state must not be trained on.
    #[test]
    fn only_all_of_the_bytes_mend_a_poisoned_buffer() {
        let mut contents = Contents::new();
        contents.poison(&Error::internal("first"));
        contents.poison(&Error::internal("second"));
        assert!(contents.check().unwrap_err().contains("(first)"));
        contents.written(0, 4, 12);
        contents.written(8, 12, 12);
        contents.written(4, 4, 12);
        assert!(contents.check().is_err());
        contents.written(3, 9, 12);
        assert!(contents.check().is_ok());
    }

    #[test]
    fn a_new_poison_forgets_what_was_mended() {
        let mut contents = Contents::new();
        contents.poison(&Error::internal("first"));
        contents.written(0, 4, 8);
        contents.poison(&Error::internal("second"));
        contents.written(4, 8, 8);
        assert!(contents.check().is_err());
    }
}
