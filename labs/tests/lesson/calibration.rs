//! Section 4.3: what one outlier does to each way of calibrating.

use super::normal;
use tinytorch_labs::table::Table;
use tinytorch_quantization::metrics::sqnr_db;
use tinytorch_quantization::{
    CodeRange, Histogram, MinMaxObserver, Observer, PercentileObserver, choose_qparams, dequantize,
    entropy_range, quantize,
};

pub fn outlier() -> String {
    let mut values = normal(10_000, 1.0);
    values.push(100.0);
    let mut min_max = MinMaxObserver::default();
    let mut percentile = PercentileObserver::new(99.9, Histogram::new(2048)).expect("99.9 is good");
    let mut histogram = Histogram::new(2048);
    min_max.observe(&values).expect("the values are finite");
    percentile.observe(&values).expect("the values are finite");
    histogram.add(&values).expect("the values are finite");
    let ranges = [
        ("min-max", min_max.range()),
        ("percentile 99.9", percentile.range()),
        ("entropy", entropy_range(&histogram, 128)),
    ];
    let mut table = Table::new([
        "method",
        "min",
        "max",
        "step",
        "SQNR dB, without the outlier",
    ]);
    for (name, range) in ranges {
        let range = range.expect("values were observed");
        let qparams = choose_qparams(range, CodeRange::INT8).expect("the range is good");
        let ordinary = &values[..10_000];
        let codes = quantize(ordinary, qparams, CodeRange::INT8).expect("the values are finite");
        let sqnr = sqnr_db(ordinary, &dequantize(&codes, qparams));
        table.row([
            name.to_owned(),
            format!("{:.2}", range.min),
            format!("{:.2}", range.max),
            format!("{:.4}", qparams.scale),
            format!("{sqnr:.1}"),
        ]);
    }
    table.to_string()
}
