--- The client of the control socket: HTTP/1.1 with JSON over a Unix socket, and descriptors beside it (SCM_RIGHTS).
local core = require "jail"
local json = require "json"
local M = {}

local ANSWER_MAX = 4 << 20
local WAIT_MS = 10000           -- for all of a request and its answer
local RCVTIMEO, SNDTIMEO = 20, 21
local EAGAIN = 11               -- of a call that waited for so long

--- Where a server's control socket is: the first of cli.control's places that exists; nil: none.
function M.path(ctx)
  for _, path in ipairs(require("cli.control").paths(ctx)) do
    if ctx.host.stat(path, true) then return path end
  end
end

-- What the kernel waits for one call: what is left until the deadline (time.now would stand still: no loop runs here).
local function wait_until(fd, option, deadline)
  local ms = math.max(deadline - require("time").boot(), 1)
  core.call("setsockopt", fd, 1, option, string.pack("jj", ms // 1000, ms % 1000 * 1000), 16)
end

--- A connection: its descriptor | nil, why. wait: ms until it must be there
function M.open(path, wait)
  local at, folder = require("cli.control").address(path)
  if not at then return nil, folder end
  local fd = core.call("socket", 1, 1 | 0x80000, 0)                          -- AF_UNIX, SOCK_STREAM, SOCK_CLOEXEC
  if fd then wait_until(fd, SNDTIMEO, require("time").boot() + (wait or WAIT_MS)) end
  local ok, why, errno
  if fd then ok, why, errno = core.call("connect", fd, string.pack("=I2z", 1, at), 3 + #at) end
  if folder then core.call("close", folder) end
  if not fd then return nil, "no descriptor is left" end
  if ok then return fd end
  core.call("close", fd)
  return nil, errno == EAGAIN and "no answer in time" or why
end

-- The answer: status, body | nil, why
local function answer(fd, deadline)
  local text, head, body, length = "", nil, nil, nil
  repeat
    wait_until(fd, RCVTIMEO, deadline)
    local n, part, errno = core.call("read", fd, { 16384 }, 16384)
    if not n and errno ~= EAGAIN then return nil, part end
    if not n or require("time").boot() > deadline then return nil, "no answer in time" end
    if n == 0 then return nil, "it ended" end
    text = text .. part:sub(1, n)
    head, body = text:match("^(.-\r\n)\r\n(.*)$")
    length = head and (math.tointeger(tonumber(head:lower():match("\r\ncontent%-length:%s*(%d+)\r\n"))) or 0)
    if #text > ANSWER_MAX then return nil, "too long an answer" end
  until head and #body >= length
  return math.tointeger(tonumber(head:match("^HTTP/1%.1 (%d%d%d)"))), body
end

local FDS_MAX = 32         -- descriptors in one message: the control socket takes no more

-- Sends with the descriptors beside the first byte (SCM_RIGHTS, unix(7)): bytes | nil, why, errno
local function send(fd, text, fds)
  local beside = ""
  if #fds > FDS_MAX then error("too many descriptors") end
  if #fds > 0 then beside = string.pack("=Ti4i4" .. ("i4"):rep(#fds), 16 + 4 * #fds, 1, 1, table.unpack(fds)) end
  local part = { string.pack("=jT", 0, #text), at = { [0] = text } }
  return core.call("sendmsg", fd, { string.pack("=jjjTjTj", 0, 0, 0, 1, 0, #beside, 0), at = { [16] = part, [32] = beside ~= "" and beside or nil } },
    0x4000)       -- MSG_NOSIGNAL
end

-- One request: status, the answer's body | nil, sentence
local function exchange(fd, method, target, value, fds, wait)
  local deadline = require("time").boot() + (wait or WAIT_MS)
  local body = value and json.encode(value) or ""
  local text = ("%s %s HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: %d\r\n\r\n%s"):format(method, target,
    value and "Content-Type: application/json\r\n" or "", #body, body)
  while #text > 0 do
    wait_until(fd, SNDTIMEO, deadline)
    local n, why, errno = send(fd, text, fds or {})
    if not n and errno ~= EAGAIN then return nil, why end
    if not n or require("time").boot() > deadline then return nil, "no answer in time" end
    text, fds = text:sub(n + 1), nil
  end
  return answer(fd, deadline)
end

--- The text that the server of this data directory has at a path, on its control socket | nil, sentence. wait: ms for all of it
function M.text(ctx, path, wait)
  local at = M.path(ctx)
  if not at then return nil, "no server runs here, or it has no control socket" end
  local fd, why = M.open(at, wait)
  if not fd then return nil, ("cannot use %s: %s"):format(at, why) end
  local status, got = exchange(fd, "GET", path, nil, nil, wait)
  core.call("close", fd)
  if status == 200 then return got end
  local object = status and json.decode(got)
  return nil, type(object) == "table" and type(object.message) == "string" and object.message or status and ("it answered %d"):format(status) or got
end

--- One request: the answer's object | nil, sentence, hint. fds: descriptors that come with it; wait: ms for all of it
function M.request(fd, method, target, value, fds, wait)
  local status, got = exchange(fd, method, target, value, fds, wait)
  if not status then return nil, got end
  local object = json.decode(got)
  if status == 200 and type(object) == "table" then return object end
  local says = type(object) == "table" and type(object.message) == "string" and object.message or ("it answered %d"):format(status)
  return nil, says, type(object) == "table" and type(object.hint) == "string" and object.hint ~= "" and object.hint or nil
end

--- For a user whose store it is not: what the server that runs here says of his agent: { agent =, ca =, home =, env = … } | nil,
-- why, hint. Nothing at all: there is no such server. query: of the request
function M.visitor(ctx, query)
  local path, me = M.path(ctx), ctx.host.uid()
  local is = path and ctx.host.stat(path, true)
  local own = ctx.home and ctx.host.stat(ctx.home, true)
  if not is or is.type ~= "socket" or me == 0 or is.uid == me or own and own.uid == me then return end
  local fd, why = M.open(path)
  if not fd then return nil, ("cannot use %s: %s"):format(path, why) end
  local object, hint
  object, why, hint = M.request(fd, "GET", "/api/v1/agents/~/capture" .. (query or ""))
  core.call("close", fd)
  if object and type(object.agent) ~= "string" then object, why = nil, "the server does not say whose this user is" end
  return object, why and ("the server at %s: %s"):format(path, why), hint
end

return M
