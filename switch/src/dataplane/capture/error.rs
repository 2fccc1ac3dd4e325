//! Why a capture cannot begin.

/// What is wrong with a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaptureError {
    #[error("there is no port {0:?}; `sidecore status` shows those that are there")]
    NoSuchPort(String),
    #[error("a capture is of 1 to {most} ports, each named once")]
    Ports { most: usize },
    #[error("{what} must be {least} to {most}, not {is}")]
    OutOfRange { what: &'static str, least: u64, most: u64, is: u64 },
    #[error("{what} must be at least {least}, not {is}")]
    TooSmall { what: &'static str, least: u64, is: u64 },
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error("{0} captures run already, and that is all there can be; end one of them (`sidecore status` shows them)")]
    TooMany(usize),
    #[error(
        "the captures that run may take {taken} % of an I/O core's time, and all together at most {most} %: ask for less, \
         or end one of them (`sidecore status` shows them)"
    )]
    NoTimeLeft { taken: u32, most: u32 },
    #[error(
        "the switch cannot keep its connection: {0}; if too many files are open, end captures and connections, or raise the \
         process's limit (`LimitNOFILE=`)"
    )]
    Connection(std::io::Error),
    #[error("its thread cannot be started: {0}; if there are too many, raise the limit of tasks (`TasksMax=`)")]
    Thread(std::io::Error),
}

/// What is wrong with a program of BPF instructions. They are numbered from 0.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilterError {
    #[error(
        "a filter has 1 to {most} instructions, not {is} (`tcpdump -ddd` shows them): use a shorter one, and select from what \
         was captured with `tcpdump -r`"
    )]
    Length { is: usize, most: usize },
    #[error(
        "the filter's instruction {at} is {text:?}: write code, jump if true, jump if false and k, as `tcpdump -ddd` does"
    )]
    Malformed { at: usize, text: String },
    #[error(
        "the filter's instruction {at} has the unknown code {code}, or a value that it cannot have: write what `tcpdump -ddd` \
         prints, or select from what was captured with `tcpdump -r`"
    )]
    Unknown { at: usize, code: u32 },
    #[error(
        "the filter has a loop, as `protochain` makes one, at its instruction {at}: filters with loops are not supported; capture \
         more, and select from it with `tcpdump -r`"
    )]
    Loop { at: usize },
    #[error("the filter's instruction {at} jumps past the filter's end: write all that `tcpdump -ddd` prints")]
    Jump { at: usize },
    #[error("the filter does not end with a return: write all that `tcpdump -ddd` prints")]
    NoEnd,
}
