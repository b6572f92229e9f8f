//! The colours of what a person reads; `anstream` leaves them out elsewhere.

use anstyle::{AnsiColor, Color, Style};

pub(super) const HEADING: Style = Style::new().bold();
pub(super) const GOOD: Style = coloured(AnsiColor::Green);
pub(super) const WARNING: Style = coloured(AnsiColor::Yellow);
pub(super) const BAD: Style = coloured(AnsiColor::Red);

const fn coloured(colour: AnsiColor) -> Style {
    Style::new().fg_color(Some(Color::Ansi(colour)))
}
