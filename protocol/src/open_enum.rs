//! Enumerations that grow: a number on the wire, with a place for numbers
//! that a newer peer has and this build does not.

/// Defines an append-only enumeration with a number and a kebab-case name for
/// each variant. A number without a variant decodes as `Other`, so that an
/// older client still shows the message of a newer helper's error.
macro_rules! open_enum {
    (
        $(#[$outer:meta])*
        $name:ident {
            $( $(#[$inner:meta])* $variant:ident = $number:literal, $text:literal; )+
        }
    ) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(from = "u32", into = "u32")]
        #[non_exhaustive]
        pub enum $name {
            $( $(#[$inner])* $variant, )+
            /// A number that this build has no name for.
            Other(u32),
        }

        impl $name {
            /// Every variant that has a name, in the order of their numbers.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )+ ];

            /// The stable kebab-case name, as the command line prints it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $( Self::$variant => $text, )+
                    Self::Other(_) => "other",
                }
            }
        }

        impl From<u32> for $name {
            fn from(number: u32) -> Self {
                match number {
                    $( $number => Self::$variant, )+
                    other => Self::Other(other),
                }
            }
        }

        impl From<$name> for u32 {
            fn from(value: $name) -> Self {
                match value {
                    $( $name::$variant => $number, )+
                    $name::Other(number) => number,
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    Self::Other(number) => write!(f, "other-{number}"),
                    named => f.write_str(named.name()),
                }
            }
        }
    };
}

pub(crate) use open_enum;
