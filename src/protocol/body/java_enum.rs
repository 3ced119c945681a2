//! Enums as clients write them: by name, in C++ by ordinal, now and then by a name nobody knows.

/// Declares an enum written by name and read from a name, an ordinal, or an ordinal as text; anything else,
/// null included, is the variant marked as default.
macro_rules! java_enum {
    ($(#[$doc:meta])* $type:ident { $($(#[$attribute:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
        pub enum $type {
            $($(#[$attribute])* $variant,)*
        }

        impl $type {
            const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Java's name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|variant| variant.name() == name)
            }

            /// Position in Java's declaration, from 0.
            pub fn from_ordinal(ordinal: u64) -> Option<Self> {
                Self::ALL.get(usize::try_from(ordinal).ok()?).copied()
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = serde_json::Value::deserialize(deserializer)?;
                let named = value.as_str().and_then(Self::from_name);
                let ordinal = value.as_u64().or_else(|| value.as_str()?.parse().ok());
                Ok(named.or_else(|| Self::from_ordinal(ordinal?)).unwrap_or_default())
            }
        }
    };
}

pub(super) use java_enum;
