//! The ext fields of a received command: names and values by position in the header, nothing copied
//! but what had to be unescaped.

use std::fmt;

use bytes::Bytes;

/// Where a text lies: in the header as received, or in the buffer of unescaped texts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: u32,
    len: u32,
    unescaped: bool,
}

#[derive(Clone, Copy, Debug)]
struct Field {
    name: Span,
    value: Span,
}

/// Names and values of the custom header and whatever else a client put beside it, in the order received.
/// A name that occurs twice counts with its last value, as in a Java map.
///
/// ```
/// use telstar::protocol::ExtFields;
///
/// let fields: ExtFields = [("topic", "orders"), ("queueId", "0"), ("queueId", "3")].into_iter().collect();
/// assert_eq!(fields.get("queueId"), Some("3"));
/// assert_eq!(fields.get("group"), None);
/// assert_eq!(fields.iter().count(), 3);
/// ```
#[derive(Clone, Default)]
pub struct ExtFields {
    header: Bytes,
    unescaped: Vec<u8>,
    fields: Vec<Field>,
}

impl ExtFields {
    pub(super) fn over(header: Bytes) -> Self {
        Self { header, unescaped: Vec::new(), fields: Vec::with_capacity(16) }
    }

    pub(super) fn header(&self) -> &Bytes {
        &self.header
    }

    /// A text that stands in the header as it is, bytes `[start, end)`.
    pub(super) fn plain(start: usize, end: usize) -> Span {
        Span { start: start as u32, len: (end - start) as u32, unescaped: false }
    }

    /// Collects an unescaped text: `write` appends it to the buffer.
    pub(super) fn unescape<E>(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Span, E> {
        let start = self.unescaped.len();
        write(&mut self.unescaped)?;
        Ok(Span { start: start as u32, len: (self.unescaped.len() - start) as u32, unescaped: true })
    }

    pub(super) fn push(&mut self, name: Span, value: Span) {
        self.fields.push(Field { name, value });
    }

    pub(super) fn text(&self, span: Span) -> &str {
        // Both buffers were checked when the header was decoded.
        std::str::from_utf8(self.raw(span)).unwrap_or_default()
    }

    /// As [`text`](Self::text), without looking at it again.
    pub(super) fn raw(&self, span: Span) -> &[u8] {
        let source: &[u8] = if span.unescaped { &self.unescaped } else { &self.header };
        &source[span.start as usize..(span.start + span.len) as usize]
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.find(name).map(|field| self.text(field.value))
    }

    /// The value of `name` as a handle on the received bytes; copied only when it had to be unescaped.
    #[doc(hidden)]
    pub fn get_bytes(&self, name: &str) -> Option<Bytes> {
        self.find(name).map(|field| self.bytes(field.value))
    }

    pub(super) fn bytes(&self, span: Span) -> Bytes {
        let range = span.start as usize..(span.start + span.len) as usize;
        if span.unescaped { Bytes::copy_from_slice(&self.unescaped[range]) } else { self.header.slice(range) }
    }

    fn find(&self, name: &str) -> Option<&Field> {
        self.fields.iter().rev().find(|field| self.raw(field.name) == name.as_bytes())
    }

    /// Every name and value, in the order received.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|field| (self.text(field.name), self.text(field.value)))
    }

    /// Every name, as bytes, with its value as a handle, for parsers that look at each field once.
    pub(super) fn spans(&self) -> impl Iterator<Item = (&[u8], Span)> {
        self.fields.iter().map(|field| (self.raw(field.name), field.value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for ExtFields {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut fields = ExtFields::default();
        for (name, value) in pairs {
            let mut span = |text: &str| {
                let start = fields.unescaped.len();
                fields.unescaped.extend_from_slice(text.as_bytes());
                Span { start: start as u32, len: text.len() as u32, unescaped: true }
            };
            let field = Field { name: span(name.as_ref()), value: span(value.as_ref()) };
            fields.fields.push(field);
        }
        fields
    }
}

impl fmt::Debug for ExtFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl PartialEq for ExtFields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}
