--- The `net` of a policy's example: the example's own `answers`, and nothing from a network.
-- An answer: { status = 200, body = text or a table, url = the only one it is for, method =, headers = { … }, retry_after = s }
-- or { error = "timeout" }: the call itself fails. Those with a url are for that URL, the others come in order.
local core = require "secret.core"
local http = require "http"
local M = {}

local answer_keys = {
  url = "string", method = "string", status = "integer", headers = "table", body = "string table", error = "string",
  retry_after = "integer",
}
M.keys = answer_keys

-- As http_client.request and net.command fail.
local errors = {
  timeout = true, unreachable = true, cut = true, tls = true, too_large = true, address_blocked = true, clock_unset = true,
  draining = true, no_helpers = true, command_failed = true, command_timeout = true, command_missing = true,
  command_unsafe = true, command_malformed = true, command_too_large = true, command_busy = true,
}

--- nil, or what is wrong with the answers of example i.
function M.check(answers, check, i)
  for n, a in pairs(answers) do
    if math.type(n) ~= "integer" or type(a) ~= "table" then return "answers is a list of tables" end
    if not check:keys(a, answer_keys, "answer " .. n, { "examples", i, "answers", n }) then return check.why end
    if a.error and (a.status or a.body) then return ("answer %d: a call that fails has no status and no body"):format(n) end
    if a.status and (a.status < 100 or a.status > 599) then return ("answer %d: status %d is none of HTTP's"):format(n, a.status) end
    if a.error and not errors[a.error] then
      return ("answer %d: '%s' is no way in which a call fails%s"):format(n, a.error, require("policy").meant(a.error, errors))
    end
  end
end

--- A secret of an example as text: it stands in the policy's file.
function M.reveal(value)
  local req = require("example").request { url = "https://example.test/" }
  req:view().body = value
  return req:dump().body
end

-- Exactly what the call would send, as dump() has it. Raises where the real one would.
local function composed(spec)
  local req = require("example").request { method = spec.method, url = spec.url }
  local view = req:view()
  for _, h in ipairs(spec.headers or {}) do
    if type(h[1]) ~= "string" or not http.field_name_ok(h[1]) then
      error(("cannot send the header %s"):format(tostring(h[1])), 0)
    end
    view.headers:set(h[1], h[2])
  end
  if spec.body ~= nil then view.body = spec.body end
  return req:dump()
end

-- The first answer that is not used up and is for this URL; else the first that is for any.
local function take(answers, used, spec)
  for _, url in ipairs { spec.url, false } do
    for n, a in ipairs(answers) do
      if not used[n] and (a.url or false) == url and (a.method == nil or a.method == spec.method) then
        used[n] = true
        return a
      end
    end
  end
end

-- What an endpoint answers of which nothing is known: all that was asked for.
local function anything(expect)
  local values = {}
  for name, kind in pairs(expect or {}) do
    if kind == "secret" then values[name] = core.of("made up")
    elseif kind == "number" then values[name] = 3600
    elseif kind == "boolean" then values[name] = true
    elseif kind == "type" then values[name] = "string"
    elseif kind ~= "code" then values[name] = "made up" end
  end
  return { status = 200, values = values }
end

-- An answer as the policy gets it, but for this: a name that no answer has, or that was not asked for, is an error, not nil.
local function strict(answer, expect)
  local function refuse(t, names, text)
    return setmetatable(t, { __index = function(_, name)
      if names[name] == nil then error((text):format(tostring(name)) .. require("policy").meant(name, names), 2) end
    end })
  end
  if answer.values then refuse(answer.values, expect or {}, "`expect` does not ask for '%s'") end
  local names = { status = 1, values = expect and 1, malformed = 1, retry_after = 1, challenge = 1 }
  refuse(answer, names, expect and "an answer has no '%s'" or "an answer has no '%s' where `expect` names no member")
end

local function given(a, expect)
  if a.error then return nil, a.error end
  local out = { status = a.status or 200, retry_after = a.retry_after }
  for name, v in pairs(a.headers or {}) do
    if tostring(name):lower() ~= "www-authenticate" then
      return nil, nil, ("no header of an answer but WWW-Authenticate reaches a policy, and this one has '%s'"):format(tostring(name))
    end
    out.challenge = v
  end
  if expect then
    local body = a.body or ""
    if type(body) == "table" then body = require("json").encode(body) end
    local values = core.expect(core.of(body), expect)
    out.values, out.malformed = values, values == nil or nil
  end
  return out
end

--- net, sent, ended: a `net` for this credential, the requests that went out, and a function that answers nil, or why an
-- answer was wanting; then nil, or the number of an answer that nobody asked for. answers nil: all is answered.
function M.net(pol, cred, answers)
  local policy, time = require "policy", require "time"
  local sent, used, wanting = {}, {}, nil
  local function lacks(what)
    wanting = ("the example has no answer (left) for %s"):format(what)
    error(wanting, 0)
  end
  local client = { request = function(spec)
    local out = composed(spec)
    sent[#sent + 1] = out
    if not answers then return anything(spec.expect) end
    local answer, code, why = given(take(answers, used, spec) or lacks(spec.method .. " " .. spec.url), spec.expect)
    wanting = wanting or why
    if why then error(why, 0) end
    return answer, code
  end }
  local net = require("oauth").net {
    client = client, secret = require "secret", form = require "form", json = require "json", sign = require "sign",
    time = { now = time.now, wall = policy.wall }, new_id = function() return ("0"):rep(32) end,
    deadline = time.now() + 10000,
    answered = function(name, answer, first, second)
      if name == "request" or name == "post" then strict(answer, (name == "post" and second or first).expect) end
    end,
    allows = function(url) return policy.allows_url(pol, cred, url) end,
    plain = policy.plain(pol, cred),
    command = pol.programs and function(spec)
      local a = answers and (take(answers, used, { url = spec[1] }) or lacks("the program " .. tostring(spec[1])))
      if not a then return { { "authorization", core.of("made up") } } end
      if a.error then return nil, a.error end
      local list = {}
      for name, v in pairs(a.headers or {}) do list[#list + 1] = { name, core.of(v) } end
      return list
    end,
  }
  return net, sent, function()
    for n in ipairs(answers or {}) do
      if not used[n] then return wanting, n end
    end
    return wanting
  end
end

return M
