--- An answer that comes before the request's body is through: the client learns in its head that the connection ends with
-- it (RFC 9112 9.6), it gets the answer whole, and what was left of the body is never taken for a request.
local cases, agents = {}, { { name = "a" } }
local sizes = { { "100 bytes", 100 }, { "20 kB", 20000 }, { "4 MiB", 4194304 } }

local function body_of(kind, size)
  if kind == "length" then return "Content-Length: " .. size .. "\r\n\r\n", { { ["repeat"] = ("x"):rep(100), times = size // 100 }, ("y"):rep(size % 100) } end
  local piece = size > 100 and 8192 or 100
  local steps = { { ["repeat"] = ("%x\r\n%s\r\n"):format(piece, ("x"):rep(piece)), times = size // piece } }
  if size % piece ~= 0 then steps[2] = ("%x\r\n%s\r\n"):format(size % piece, ("x"):rep(size % piece)) end
  steps[#steps + 1] = "0\r\n\r\n"
  return "Transfer-Encoding: chunked\r\n\r\n", steps
end

for _, status in ipairs { 200, 204, 303, 401 } do
  local answer = "HTTP/1.1 " .. status .. " Early\r\n" .. (status == 204 and "" or "Content-Length: 5\r\n") .. "\r\n" .. (status == 204 and "" or "early")
  for _, kind in ipairs { "length", "chunked" } do
    for _, size in ipairs(sizes) do
      local framing, body = body_of(kind, size[2])
      local head = "POST /up HTTP/1.1\r\nHost: api.test\r\n" .. framing
      -- Ends with what would be a request of its own.
      cases[#cases + 1] = { name = ("%d, %s, %s: the client waits for the answer"):format(status, kind, size[1]), upstream = { read = "none", reply = answer },
        send = { head, { answers = 1 }, "GET /smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n" },
        expect = { status = status, headers = { connection = "close" }, closed = true, upstream = { requests = 1 } } }
      if status == 200 or status == 204 then
        local all = { head }
        for _, step in ipairs(body) do all[#all + 1] = step end
        -- The server keeps its connection, and never reads the body: each has an agent, and so a pool, of its own.
        agents[#agents + 1] = { name = "b" .. #agents }
        cases[#cases + 1] = { name = ("%d, %s, %s: the client reads only behind its body"):format(status, kind, size[1]),
          token = agents[#agents].name, upstream = { read = "none", reply = { { steps = { answer, 3 } } } }, send = all,
          expect = { status = status, upstream = { requests = 1 } } }
      end
    end
  end
end
cases[#cases + 1] = { name = "a server that reads on gets the whole body, and its answer goes on meanwhile",
  upstream = { read = "head", reply = { { steps = { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n", { ["until"] = "hello" }, "3\r\ntwo\r\n0\r\n\r\n" } } } },
  send = { "POST /up HTTP/1.1\r\nHost: api.test\r\nContent-Length: 10\r\n\r\n", { ["until"] = "one" }, "hello", { ["until"] = "two" } },
  expect = { status = 200, body = "onetwo", headers = { connection = "close" }, closed = true } }
cases[#cases + 1] = { name = "an answer behind the whole body keeps the connection",
  send = { "POST /up HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\n\r\nhello", { answers = 1 }, "GET /x HTTP/1.1\r\nHost: api.test\r\n\r\n" },
  expect = { statuses = { 200, 200 }, no_headers = "connection", closed = false, upstream = { requests = 2, connections = 1 } }, workers = 1 }
return {
  shared = { agents = agents, credential = { name = "api", type = "bearer", host = "api.test", secrets = { token = "canary-early" } } },
  cases = cases,
}
