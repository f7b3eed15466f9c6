//! The pages: rendered here whole, usable without script, which they have none of.

pub(crate) mod assets;
mod entry;
mod form;
mod list;
mod time;
mod value;

use askama::Template;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};

pub(crate) use entry::entry;
pub(crate) use list::list;

use crate::links;
use crate::refusal::{Problem, Refusal};
use crate::shown::Shown;

/// `GET /`
pub(crate) async fn home() -> Redirect {
    Redirect::to(links::LIST_PAGE)
}

/// Whatever has no route, told in the form that its neighbours have.
pub(crate) async fn not_found(request: Request) -> Response {
    let path = request.uri().path();
    if path.starts_with("/api/") {
        Problem(Refusal::NoSuchPage).into_response()
    } else {
        ErrorPage(Refusal::NoSuchPage).into_response()
    }
}

pub(crate) async fn method_not_allowed() -> ErrorPage {
    ErrorPage(Refusal::Method)
}

fn rendered(status: StatusCode, page: &impl Template) -> Result<Response, ErrorPage> {
    let html = page.render().map_err(|error| ErrorPage(Refusal::Template(error)))?;
    Ok((status, Html(html)).into_response())
}

/// A refusal as a person is told it.
pub(crate) struct ErrorPage(Refusal);

impl From<Refusal> for ErrorPage {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorTemplate {
    status: u16,
    title: &'static str,
    told: Shown,
    list_page: &'static str,
}

impl IntoResponse for ErrorPage {
    fn into_response(self) -> Response {
        self.0.log();
        let told = self.0.told();
        let title = match self.0 {
            Refusal::Parameter(_) => "That address can’t be read",
            Refusal::NoSuchEntry(_) | Refusal::NoSuchPage => "Not found",
            Refusal::Store(_) if told.status == 503 => "The audit log can’t be reached right now",
            Refusal::Store(_) | Refusal::Template(_) => "Something went wrong here",
            Refusal::Method | Refusal::ForeignHost(_) => told.title,
        };
        let page =
            ErrorTemplate { status: told.status, title, told: Shown::line(&told.detail), list_page: links::LIST_PAGE };
        // A page that can't even say what went wrong still has its status.
        let html = page.render().unwrap_or_else(|_| told.title.to_owned());
        (self.0.status(), Html(html)).into_response()
    }
}
