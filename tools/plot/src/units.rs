//! How figures are written. Pure.

/// Three significant digits, without zeros at the end.
#[must_use]
pub fn short(figure: f64) -> String {
    if figure == 0.0 || !figure.is_finite() {
        return figure.to_string();
    }
    let decimals = (2 - figure.abs().log10().floor() as i32).clamp(0, 9) as usize;
    let text = format!("{figure:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A figure with as many digits as a table needs: four significant ones, thousands apart.
#[must_use]
pub fn precise(figure: f64) -> String {
    if !figure.is_finite() {
        return figure.to_string();
    }
    let digits = if figure == 0.0 { 0 } else { figure.abs().log10().floor() as i32 };
    let decimals = (3 - digits).clamp(0, 3) as usize;
    let text = format!("{figure:.decimals$}");
    let (whole, part) = text.split_once('.').map_or((text.as_str(), ""), |(whole, part)| (whole, part));
    let part = part.trim_end_matches('0');
    let whole = thousands(whole);
    if part.is_empty() { whole } else { format!("{whole}.{part}") }
}

fn thousands(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let mut text = sign.to_owned();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `scaled(1_500.0, …)` is "1.5k": the largest unit that is not above the figure.
fn scaled(figure: f64, step: f64, units: &[&str]) -> String {
    let mut figure = figure;
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    // Half of the last digit shown below the next unit already rounds up to it.
    while figure.abs() >= step * 0.9995 {
        let Some(next) = units.next() else { break };
        figure /= step;
        unit = next;
    }
    format!("{}{unit}", short(figure))
}

/// A plain number: 16, 65536; powers of two stay recognisable, round thousands become 1k, 10k, 1M.
#[must_use]
pub fn count(figure: f64) -> String {
    let is_round = figure >= 1e3 && (figure / 10f64.powf(figure.log10().floor() - 1.0)).fract().abs() < 1e-6;
    if is_round || figure >= 1e6 {
        scaled(figure, 1e3, &["", "k", "M", "G", "T"])
    } else if figure >= 1e3 {
        format!("{figure:.0}")
    } else {
        short(figure)
    }
}

/// Bytes: 8 B, 4 KiB, 16 MiB.
#[must_use]
pub fn bytes(figure: f64) -> String {
    scaled(figure, 1024.0, &[" B", " KiB", " MiB", " GiB"])
}

/// Microseconds: 150 ns, 12 µs, 3.5 ms, 1 s.
#[must_use]
pub fn micros(figure: f64) -> String {
    if figure.abs() < 0.9995e-3 {
        return "0".to_owned();
    }
    scaled(figure * 1e3, 1e3, &[" ns", " µs", " ms", " s"])
}

/// Seconds since a start: 0, 45 s, 10 min, 1 h 30, 2 d.
#[must_use]
pub fn seconds(figure: f64) -> String {
    let of = |unit: f64, name: &str| format!("{} {name}", short(figure / unit));
    match figure {
        0.0 => "0".to_owned(),
        s if s < 60.0 => of(1.0, "s"),
        s if s < 3600.0 => of(60.0, "min"),
        s if s % 3600.0 != 0.0 && s < 86_400.0 => {
            format!("{:.0} h {:02.0}", (s / 3600.0).floor(), s % 3600.0 / 60.0)
        }
        s if s < 86_400.0 => of(3600.0, "h"),
        _ => of(86_400.0, "d"),
    }
}

/// Milliseconds.
#[must_use]
pub fn millis(figure: f64) -> String {
    micros(figure * 1e3)
}

/// A percentage.
#[must_use]
pub fn percent(figure: f64) -> String {
    format!("{}%", short(figure))
}

/// A part of one as a percentage.
#[must_use]
pub fn part(figure: f64) -> String {
    percent(figure * 100.0)
}

/// A ratio to `raw`.
#[must_use]
pub fn ratio(figure: f64) -> String {
    format!("{}×", if figure >= 1e4 { count(figure) } else { short(figure) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_has_three_digits() {
        let cases =
            [(0.0, "0"), (0.123_4, "0.123"), (2.0, "2"), (2.046, "2.05"), (31.25, "31.2"), (1_800.4, "1800")];
        for (figure, text) in cases {
            assert_eq!(short(figure), text);
        }
    }

    #[test]
    fn tables_keep_thousands_apart() {
        let cases =
            [(0.0, "0"), (0.351, "0.351"), (66.25, "66.25"), (1_234.56, "1,235"), (7_654_321.0, "7,654,321")];
        for (figure, text) in cases {
            assert_eq!(precise(figure), text);
        }
        assert_eq!(precise(-1_000.0), "-1,000");
    }

    #[test]
    fn units_fit_the_figure() {
        assert_eq!([16.0, 65_536.0, 1e3, 1e4, 1.5e6].map(count), ["16", "65536", "1k", "10k", "1.5M"]);
        assert_eq!([8.0, 1_024.0, 4_194_304.0].map(bytes), ["8 B", "1 KiB", "4 MiB"]);
        assert_eq!([0.0, 0.15, 12.0, 3_500.0, 2e6].map(micros), ["0", "150 ns", "12 µs", "3.5 ms", "2 s"]);
        assert_eq!(micros(0.9996), "1 µs");
        assert_eq!([0.4, 2.28, 4_100.0].map(ratio), ["0.4×", "2.28×", "4100×"]);
        assert_eq!(part(0.955), "95.5%");
    }
}
