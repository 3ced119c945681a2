//! How request and response codes are written down: a number with named values, open to unknown ones.

/// Declares a code type with a constant per line. A number may have one name only.
macro_rules! codes {
    ($(#[$doc:meta])* $code:ident { $($(#[$constant_doc:meta])* $name:ident = $number:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $code(i32);

        impl $code {
            $(
                $(#[$constant_doc])*
                #[doc = concat!("\n\nNumber ", stringify!($number), ".")]
                pub const $name: Self = Self($number);
            )*

            /// Every code that has a name, in the order of this file.
            pub const NAMED: &'static [Self] = &[$(Self::$name),*];

            /// Takes any number; an unknown one keeps it.
            pub const fn from_i32(code: i32) -> Self {
                Self(code)
            }

            /// The number.
            pub const fn as_i32(self) -> i32 {
                self.0
            }

            /// Java's name, for logs; `UNKNOWN` where there is none.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                    _ => "UNKNOWN",
                }
            }
        }

        /// `SEND_MESSAGE(10)`.
        impl std::fmt::Display for $code {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({})", self.name(), self.0)
            }
        }

        impl std::fmt::Debug for $code {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }
    };
}

pub(super) use codes;
