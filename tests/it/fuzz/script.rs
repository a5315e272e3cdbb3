//! Reads decisions out of any bytes. At the end of them all is as usual, so a short input is a
//! plain story and each byte more bends it.

/// The rest of an input.
pub(crate) struct Script<'a> {
    rest: &'a [u8],
}

impl<'a> Script<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        match self.rest.split_first() {
            Some((byte, rest)) => {
                self.rest = rest;
                *byte
            }
            None => 0,
        }
    }

    /// A number from 0 to `n` - 1.
    pub(crate) fn below(&mut self, n: u8) -> u8 {
        self.byte() % n.max(1)
    }

    /// Up to 255 bytes as they are.
    pub(crate) fn bytes(&mut self) -> Vec<u8> {
        let wanted = usize::from(self.byte()).min(self.rest.len());
        let (taken, rest) = self.rest.split_at(wanted);
        self.rest = rest;
        taken.to_vec()
    }

    fn eight(&mut self) -> [u8; 8] {
        std::array::from_fn(|_| self.byte())
    }

    /// Three times in four the usual; else a small number, an extreme one, or any.
    pub(crate) fn number(&mut self, usual: i64) -> i64 {
        match self.byte() {
            0..=0xbf => usual,
            0xc0..=0xcf => i64::from(self.byte()),
            0xd0..=0xd7 => -i64::from(self.byte()),
            0xd8..=0xe3 => 10i64.pow(u32::from(self.below(19))),
            0xe4..=0xe7 => i64::MAX,
            0xe8..=0xeb => i64::MIN,
            0xec..=0xef => 0,
            0xf0..=0xff => i64::from_le_bytes(self.eight()),
        }
    }

    /// The same without a sign.
    pub(crate) fn unsigned(&mut self, usual: u64) -> u64 {
        match self.byte() {
            0xff => u64::MAX,
            _ => self.number(usual.cast_signed()).cast_unsigned(),
        }
    }

    /// The same with 32 bits: the lower half of what would have been.
    pub(crate) fn short(&mut self, usual: i32) -> i32 {
        let [a, b, c, d, ..] = self.number(i64::from(usual)).to_le_bytes();
        i32::from_le_bytes([a, b, c, d])
    }

    /// A double in the same way.
    pub(crate) fn double(&mut self, usual: f64) -> f64 {
        match self.byte() {
            0..=0xbf => usual,
            0xc0..=0xd7 => f64::from(self.byte()),
            0xd8..=0xdf => f64::from(self.byte()) * 1e-5,
            0xe0..=0xe3 => 10f64.powi(i32::from(self.byte())),
            0xe4 => f64::NAN,
            0xe5 => f64::INFINITY,
            0xe6 => f64::NEG_INFINITY,
            0xe7 => -1.0,
            0xe8..=0xef => 0.0,
            0xf0..=0xff => f64::from_le_bytes(self.eight()),
        }
    }

    /// Text in the same way.
    pub(crate) fn text(&mut self, usual: &str) -> String {
        match self.byte() {
            0..=0xdf => usual.to_owned(),
            0xe0..=0xe7 => String::new(),
            0xe8..=0xef => "\0".to_owned(),
            0xf0..=0xff => String::from_utf8_lossy(&self.bytes()).into_owned(),
        }
    }

    /// Usually there.
    pub(crate) fn maybe<T>(&mut self, value: T) -> Option<T> {
        (self.byte() < 0xe0).then_some(value)
    }

    /// One of them, the first at the end.
    pub(crate) fn one<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let at = usize::from(self.byte()).checked_rem(of.len())?;
        of.get(at).copied()
    }
}
