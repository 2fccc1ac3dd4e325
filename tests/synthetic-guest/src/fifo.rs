//! A double-ended queue of small values whose room is fixed when it is made: what rings and queues keep their free
//! descriptors and buffers in.

/// At most as many values as it was made for.
pub(crate) struct Fifo<T> {
    items: Vec<T>,
    /// Free-running positions of the first value and behind the last one.
    head: u32,
    tail: u32,
}

impl<T: Copy + Default> Fifo<T> {
    /// An empty queue with room for `capacity` values.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Fifo { items: vec![T::default(); capacity.max(1).next_power_of_two()], head: 0, tail: 0 }
    }

    /// A full queue.
    pub(crate) fn full(values: impl ExactSizeIterator<Item = T>) -> Self {
        let mut fifo = Self::with_capacity(values.len());
        values.for_each(|value| fifo.push_back(value));
        fifo
    }

    /// A full queue of the numbers from 0 to `count`, in an order without a pattern, which is the same every time.
    ///
    /// Buffers that follow each other at equal distances would let a processor that reads them fetch the next ones by itself, before the
    /// other side has written them: those lines would go back and forth once more. Buffers of a guest that has run for a while do not.
    pub(crate) fn shuffled(count: u32) -> Self
    where
        T: From<u32>,
    {
        let mut numbers: Vec<u32> = (0..count).collect();
        let mut state = 1_u64;
        for at in (1..numbers.len()).rev() {
            // Knuth's MMIX generator; its upper bits are the random ones.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            numbers.swap(at, (state >> 33) as usize % (at + 1));
        }
        Self::full(numbers.into_iter().map(T::from))
    }

    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.tail.wrapping_sub(self.head) as usize
    }

    /// Adds a value. Whoever gives back what was taken from here cannot overfill it.
    #[inline(always)]
    pub(crate) fn push_back(&mut self, value: T) {
        debug_assert!(self.len() < self.items.len());
        let at = self.at(self.tail);
        self.items[at] = value;
        self.tail = self.tail.wrapping_add(1);
    }

    /// The value that is `n` places behind the first one. There has to be one.
    #[inline(always)]
    pub(crate) fn peek(&self, n: usize) -> T {
        debug_assert!(n < self.len());
        self.items[self.at(self.head.wrapping_add(n as u32))]
    }

    /// Removes the first `n` values: after a loop of [`Fifo::peek`], which leaves positions in registers.
    #[inline(always)]
    pub(crate) fn remove(&mut self, n: usize) {
        debug_assert!(n <= self.len());
        self.head = self.head.wrapping_add(n as u32);
    }

    /// Writes a value `n` places behind the last one, to be added by [`Fifo::extend`].
    #[inline(always)]
    pub(crate) fn put(&mut self, n: usize, value: T) {
        debug_assert!(self.len() + n < self.items.len());
        let at = self.at(self.tail.wrapping_add(n as u32));
        self.items[at] = value;
    }

    /// Adds the first `n` values written by [`Fifo::put`].
    #[inline(always)]
    pub(crate) fn extend(&mut self, n: usize) {
        self.tail = self.tail.wrapping_add(n as u32);
    }

    #[inline(always)]
    pub(crate) fn pop_front(&mut self) -> Option<T> {
        if self.head == self.tail {
            return None;
        }
        let value = self.items[self.at(self.head)];
        self.head = self.head.wrapping_add(1);
        Some(value)
    }

    #[inline(always)]
    pub(crate) fn pop_back(&mut self) -> Option<T> {
        if self.head == self.tail {
            return None;
        }
        self.tail = self.tail.wrapping_sub(1);
        Some(self.items[self.at(self.tail)])
    }

    /// The values, first to last.
    pub(crate) fn iter(&self) -> impl Iterator<Item = T> + '_ {
        (0..self.len() as u32).map(|n| self.items[self.at(self.head.wrapping_add(n))])
    }

    #[inline(always)]
    fn at(&self, position: u32) -> usize {
        position as usize & (self.items.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffled_queue_has_every_number_once_and_no_stride() {
        for count in [0, 1, 2, 256, 1000] {
            let fifo = Fifo::<u32>::shuffled(count);
            let mut numbers: Vec<u32> = fifo.iter().collect();
            if count >= 256 {
                let steps: Vec<u32> = numbers.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
                let repeated = steps.windows(2).filter(|pair| pair[0] == pair[1]).count();
                assert!(repeated < steps.len() / 20, "{repeated} of {} steps are like the one before", steps.len());
            }
            numbers.sort_unstable();
            assert_eq!(numbers, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn both_ends_across_the_wrap() {
        let mut fifo = Fifo::full(0..3u16);
        fifo.head = u32::MAX;
        fifo.tail = u32::MAX;
        assert_eq!((fifo.pop_front(), fifo.pop_back()), (None, None));
        (0..4).for_each(|n| fifo.push_back(n));
        assert_eq!(fifo.len(), 4);
        assert_eq!((fifo.pop_front(), fifo.pop_back()), (Some(0), Some(3)));
        fifo.push_back(9);
        assert_eq!(fifo.iter().collect::<Vec<_>>(), [1, 2, 9]);
        assert_eq!((fifo.peek(0), fifo.peek(2)), (1, 9));
        fifo.remove(2);
        fifo.put(0, 5);
        fifo.put(1, 6);
        fifo.extend(2);
        assert_eq!(fifo.iter().collect::<Vec<_>>(), [9, 5, 6]);
    }
}
