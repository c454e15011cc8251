//! Who makes and who reads each value of a program.

use super::results;
use crate::program::{Program, ValueId};

/// For every value, the node that makes it and those that read it.
#[derive(Clone, Debug)]
pub struct Uses {
    makers: Vec<Option<usize>>,
    readers: Vec<usize>,
    last: Vec<Option<usize>>,
}

impl Uses {
    /// Those of a program.
    pub fn of(program: &Program) -> Uses {
        let count = program.types().len();
        let mut uses = Uses { makers: vec![None; count], readers: vec![0; count], last: vec![None; count] };
        for (number, node) in program.nodes().iter().enumerate() {
            for operand in &node.operands {
                uses.readers[operand.index()] += 1;
                uses.last[operand.index()] = Some(number);
            }
            node.results.iter().for_each(|result| uses.makers[result.index()] = Some(number));
        }
        results(program).for_each(|value| uses.readers[value.index()] += 1);
        uses
    }

    /// The number of the node that makes a value; none makes an argument.
    pub fn maker(&self, value: ValueId) -> Option<usize> {
        self.makers[value.index()]
    }

    /// How often a value is read: by nodes, an operand that stands twice counting twice, and as a result of the program.
    pub fn readers(&self, value: ValueId) -> usize {
        self.readers[value.index()]
    }

    /// The number of the last node that reads a value.
    pub fn last_reader(&self, value: ValueId) -> Option<usize> {
        self.last[value.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::text;

    #[test]
    fn makers_and_readers_are_counted() {
        let program = text::parse(
            "finetune.program 1\n%0 = state \"x\" : f32[2]\n%1 = neg(%0) : f32[2]\n%2 = mul(%1, %1) : f32[2]\n\
             %3 = add(%2, %0) : f32[2]\nupdate %0 = %3\noutput \"y\" = %3\noutput \"z\" = %1\nend\n",
        )
        .unwrap();
        let (uses, id) = (Uses::of(&program), |number: usize| program.nodes()[number].results[0]);
        let x = program.args()[0].value;
        assert_eq!((uses.maker(x), uses.readers(x), uses.last_reader(x)), (None, 2, Some(2)));
        assert_eq!((uses.maker(id(0)), uses.readers(id(0)), uses.last_reader(id(0))), (Some(0), 3, Some(1)));
        assert_eq!((uses.maker(id(2)), uses.readers(id(2)), uses.last_reader(id(2))), (Some(2), 2, None));
    }
}
