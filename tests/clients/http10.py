# mypy: ignore-errors
"""Python's http.client as an HTTP/1.0 client: whole and streamed, the connection closed after."""

import http.client
import json
import platform
from urllib.parse import urlsplit

from clients.common import BASE, MODEL, QUESTION, ok


class Connection(http.client.HTTPConnection):
    _http_vsn = 10
    _http_vsn_str = "HTTP/1.0"


body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}]}
address = urlsplit(BASE)
for streamed in (False, True):
    connection = Connection(address.hostname, address.port, timeout=60)
    headers = {"Content-Type": "application/json"}
    data = json.dumps(body | {"stream": streamed})
    connection.request("POST", "/v1/chat/completions", data, headers)
    response = connection.getresponse()
    text = response.read().decode()
    assert response.status == 200, text
    # HTTP/1.0 knows no chunks: the end of the connection is the end of the answer.
    assert response.getheader("Transfer-Encoding") is None, response.getheaders()
    if streamed:
        assert text.endswith("data: [DONE]\n\n"), text
    else:
        assert json.loads(text)["choices"][0]["message"]["content"], text
    connection.close()

ok("http10", number=platform.python_version())
