//! What the vendor says, and when.

use serde_json::{Value, json};
use tokio::sync::watch;

/// Holds answers back until it is opened.
#[derive(Clone, Debug)]
pub(crate) struct Gate(watch::Sender<bool>);

impl Gate {
    pub(crate) fn shut() -> Self {
        Self(watch::Sender::new(false))
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    pub(super) async fn opened(&self) {
        self.0.subscribe().wait_for(|open| *open).await.expect("self holds the sender");
    }
}

/// How an answer's bytes come.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    Whole,
    /// Half of the body, then the end of the connection.
    CutOff,
    /// A byte now and then, for ever.
    Trickle,
    /// A second whole answer after the first.
    Followed(Box<Answer>),
    /// By hand, step by step.
    Raw(Vec<Step>),
}

/// One step of an answer that no honest server gives. After the last one the connection may be used again.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// These bytes.
    Send(Vec<u8>),
    /// These bytes again and again, as fast as they are taken.
    Endless(Vec<u8>),
    /// These bytes again and again, one now and then.
    Trickle(Vec<u8>),
    /// Nothing, until the gate opens.
    Wait(Gate),
    /// Nothing more, until the other side leaves.
    Hang,
    /// The end of the connection; over TLS without its goodbye.
    Close,
    /// An end of the connection that throws away what is under way.
    Reset,
    /// A record of TLS that nobody's key has sealed.
    Corrupt,
}

impl Step {
    pub(crate) fn send(text: impl Into<Vec<u8>>) -> Self {
        Self::Send(text.into())
    }
}

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    pub(super) gate: Option<Gate>,
    pub(super) shape: Shape,
}

/// A task's state, as the vendor tells it.
pub(crate) fn task(status: &str) -> Answer {
    remarked(status, "")
}

/// A finished task.
pub(crate) fn done() -> Answer {
    task("DONE")
}

fn remarked(status: &str, remark: &str) -> Answer {
    Answer::json(&json!({
        "failDataList": [], "resultCode": "0", "resultMessage": "The query is successful.",
        "taskInfo": {"status": status, "remark": remark},
    }))
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), gate: None, shape: Shape::Whole }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self::new(status, "")
    }

    pub(crate) fn json(body: &Value) -> Self {
        Self::new(200, body.to_string())
    }

    /// What an honest server would not send.
    pub(crate) fn raw(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { shape: Shape::Raw(steps.into_iter().collect()), ..Self::status(0) }
    }

    /// A failure that the vendor tells with a resultCode.
    pub(crate) fn result(code: &str, message: &str) -> Self {
        Self::json(&json!({"resultCode": code, "resultMessage": message}))
    }

    /// A task that is under way, with a remark.
    pub(crate) fn doing(remark: &str) -> Self {
        remarked("DOING", remark)
    }

    pub(crate) fn token(token: &str, expires: &Value) -> Self {
        let mut body = json!({"AccessToken": token, "ApplyType": "Bearer", "CreateTime": "1545650171"});
        if !expires.is_null() {
            body["Expires"] = expires.clone();
        }
        Self::json(&body)
    }

    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn held(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    pub(crate) fn cut_off(mut self) -> Self {
        self.shape = Shape::CutOff;
        self
    }

    pub(crate) fn trickled(mut self) -> Self {
        self.shape = Shape::Trickle;
        self
    }

    pub(crate) fn followed_by(mut self, second: Self) -> Self {
        self.shape = Shape::Followed(Box::new(second));
        self
    }

    pub(super) fn head(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} X\r\nContent-Length: {}\r\n", self.status, self.body.len());
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// All of it, as an honest server sends it.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        [&self.head(), &*self.body].concat()
    }
}
