"""`GET /docs`: a page that lists the routes and sends requests to them.

The page is complete in itself. FastAPI's own one loads its script from another host: that fails
where there is no internet, and gives that host the keys which are typed into the page.
"""

from __future__ import annotations

import base64
import hashlib

from fastapi import APIRouter, Response

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
details { border: 1px solid #8888; border-radius: 4px; margin: .5rem 0; padding: .5rem 1rem }
summary { cursor: pointer } code, pre, textarea { font: 14px/1.4 ui-monospace, monospace }
textarea, input { width: 100%; box-sizing: border-box } textarea { height: 8rem }
pre { overflow: auto; max-height: 30rem; background: #8882; padding: .5rem; white-space: pre-wrap }
td { padding: .1rem 1rem .1rem 0; vertical-align: top }
"""

_SCRIPT = """
const make = (tag, text, parent) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
};

const typeOf = (schema) =>
  schema.enum?.join(' | ') ?? schema.type ?? (schema.anyOf ?? schema.oneOf ?? []).map(typeOf)
    .join(' | ');

function addFields(schema, parent) {
  const table = make('table', undefined, parent);
  for (const [name, field] of Object.entries(schema.properties ?? {})) {
    const row = make('tr', undefined, table);
    make('code', name, make('td', undefined, row));
    make('td', typeOf(field) + (schema.required?.includes(name) ? ', required' : ''), row);
    make('td', field.description ?? '', row);
  }
}

function addRoute(method, path, operation) {
  const box = make('details', undefined, document.body);
  const summary = make('summary', undefined, box);
  make('code', `${method.toUpperCase()} ${path}`, summary);
  make('p', operation.description ?? '', box);
  const schema = operation.requestBody?.content['application/json']?.schema;
  if (schema) addFields(schema, box);
  const url = make('input', undefined, box);
  url.value = path;
  const body = schema && make('textarea', '{}', box);
  const button = make('button', 'Send', box);
  const answer = make('pre', '', box);
  button.onclick = async () => {
    answer.textContent = '...';
    const headers = {};
    const key = document.getElementById('key').value;
    if (key) headers.Authorization = `Bearer ${key}`;
    if (body) headers['Content-Type'] = 'application/json';
    try {
      const response = await fetch(url.value, {
        method: method.toUpperCase(), headers, body: body?.value
      });
      const text = await response.text();
      answer.textContent = `${response.status}\\n${text.slice(0, 20000)}`;
    } catch (error) {
      answer.textContent = String(error);
    }
  };
}

fetch('/openapi.json').then((response) => response.json()).then((api) => {
  for (const [path, methods] of Object.entries(api.paths))
    for (const [method, operation] of Object.entries(methods)) addRoute(method, path, operation);
});
"""

_PAGE = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Lensemble: HTTP API</title>
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>
<body><h1>Lensemble: HTTP API</h1>
<p>The routes of <a href="/openapi.json">/openapi.json</a>. A key is sent with requests of this page
and stored nowhere. <label>API key <input id="key" type="password" autocomplete="off"></label></p>
<script>{_SCRIPT}</script></body></html>
"""


def _hash(text: str) -> str:
    """The source expression of an inline text in a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# The browser runs this script and no other, and sends requests to this gateway only.
_POLICY = (
    f"default-src 'none'; connect-src 'self'; script-src {_hash(_SCRIPT)}; "
    f"style-src {_hash(_STYLE)}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def router() -> APIRouter:
    """The route of this module."""
    routes = APIRouter()

    @routes.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        """A page that lists the routes and sends requests to them."""
        headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}
        return Response(_PAGE, media_type="text/html; charset=utf-8", headers=headers)

    return routes
