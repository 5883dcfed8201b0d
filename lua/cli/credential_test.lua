--- sallyport credential test: a token where the type has one, then one small read; what was set, by name.
local decision = require "cli.decision"
local presets = require "presets"
local report = require "cli.report"
local M = {}

local DEADLINE_MS = 20000    -- a refresh may take 10 s, and the read as long
local MORE = 1 << 20         -- of the answer's body; it is thrown away
local FAR = 366 * 86400      -- s: an end further off than this is none that a server named

local trouble = {
  timeout = "the upstream did not answer in time",
  unreachable = "the upstream cannot be reached",
  cut = "the upstream broke off its answer",
  tls = "TLS with the upstream failed",
  address_blocked = "its address is refused by the guard",
  too_large = "it answered with more than 1 MiB",
  clock_unset = "this machine's clock is not set",
}

--- The request as `apply` left it: its target and headers, and the names of what was set.
local function outgoing(req, own)
  local headers, set, was = {}, {}, { host = true }
  local target, path, query = req:target()
  for name in pairs(own) do was[name:lower()] = true end
  local view = req:view()
  for _, name in ipairs(view.headers:names()) do
    headers[#headers + 1] = { name, view.headers:get(name) }
    if not was[name] then set[#set + 1] = name end
  end
  table.sort(set)
  if path then set[#set + 1] = "the path" end
  if query then set[#set + 1] = "the query" end
  return target, headers, set
end

-- The preset's small read where it has one and nothing of it is open; else the root of the first host.
local function default_url(record, preset)
  local host = record.hosts[1]
  local known = preset and preset.test and presets.fill(preset, preset.test, host, record.fields)
  if known and not host:find("[*$]") then return known end
  if known and not preset.test:find("{host}", 1, true) then return known end
  local open = M.open_host(host)
  if open then
    report.usage(open .. " needs a URL", ("sallyport credential test %s %s"):format(record.name, M.root_url(record)))
  end
  return M.root_url(record)
end

--- Why the root of a host can be no URL before a person has filled it in; nil: it is one.
function M.open_host(host)
  return host:find("$", 1, true) and "a host with a variable" or host:sub(1, 2) == "*." and "a credential for a wildcard" or nil
end

--- Is there no URL that `credential test` would name by itself?
function M.needs_url(record)
  local host, preset = record.hosts[1], record.preset and presets.get(record.preset)
  return M.open_host(host) ~= nil and not (preset and preset.test and not preset.test:find("{host}", 1, true))
end

--- The first address that a credential covers, with … for what only a person knows.
function M.root_url(record)
  local host = record.hosts[1]:gsub("^%*%.", "….", 1):gsub("%${[%u%d_]+}", "…")
  local port = record.ports and record.ports[1] or 443
  local path = record.paths and record.paths[1] or "/"
  return ("https://%s%s%s"):format(host:find(":", 1, true) and "[" .. host .. "]" or host, port ~= 443 and ":"
    .. port or "", path)
end

--- What an answer's status means for a credential; `bare`: nothing of it was in the request.
local function verdict(status, bare)
  if bare then return "that says nothing: no secret was in this request (name a URL with {FIELD} in its place)" end
  if status == 401 then return "the upstream does not accept the credential" end
  if status == 403 then return "the upstream refuses this request, or the credential altogether" end
  if status >= 500 then return "the upstream is in trouble; that says nothing about the credential" end
  if status >= 300 and status < 400 then return "the upstream redirects; that says little about the credential" end
  if status >= 400 then return "an error that need not be about the credential: name a URL that the upstream is sure to answer" end
  return "the upstream accepts the request"
end

local function say(ctx, result)
  if ctx.json then
    result.set, result.token = report.array(result.set or {}), nil
    ctx.out(report.json(result))
    return
  end
  ctx.out(("%s: GET %s\n"):format(result.credential, report.clean(result.url)))
  if result.token then ctx.out(("  token   %s\n"):format(result.token)) end
  ctx.out(("  set     %s\n"):format(#result.set > 0 and table.concat(result.set, ", ") or "nothing"))
  ctx.out(("  status  %s\n"):format(result.status or result.error))
  ctx.out(("  so      %s\n"):format(result.verdict))
  ctx.out(("  record  %s: sallyport log --credential %s\n"):format(result.request, result.credential))
  if result.disabled then ctx.out("  note    it is disabled: agents do not get it\n") end
  if result.hint then ctx.out(("  try     %s\n"):format(result.hint)) end
end

--- Has a server named no end of it?
function M.endless(token) return token.obtained_at ~= nil and token.expires_at - token.obtained_at > FAR end

--- When a token ends, in words.
function M.ends(token)
  return M.endless(token) and "valid until the API refuses it" or "valid until " .. report.time(token.expires_at)
end

-- What would mend it, where that is a word on the credential.
local function mending(name, url, why, detail)
  detail = tostring(detail)
  if why == "unreachable" and detail:find("does not resolve", 1, true) then
    local host, port = url:match("^%a+://([^/:?#]+):?(%d*)")
    return host and ("sallyport set connect-to %s:%s:ADDRESS:PORT, where no DNS has that name"):format(host, port ~= "" and port or 443)
  end
  if why == "tls" and detail:find("untrusted certificate", 1, true) and not detail:find("pins", 1, true) then
    return ("sallyport credential set %s ca=@FILE, its certificate or its roots (all hosts: sallyport set upstream-ca FILE)"):format(name)
  end
  if why == "tls" and detail:find("tls=legacy", 1, true) then
    return ("sallyport credential set %s tls=legacy, if it is an old box of your own network"):format(name)
  end
  if why ~= "address_blocked" then return nil end
  return ("sallyport credential set %s --address %s"):format(name, detail:find("^loopback") and "127.0.0.0/8" or "CIDR")
end

-- How the token stands that the trial has just asked for; nil: the type has none.
local function token_of(record)
  local pol = require("policy_store").load(record.type)
  local state = pol and pol.refresh and require("store").peek("state", record.name)
  return state and state.expires_at and state or nil
end

local function not_sent(record, code, message, why)
  local hints = {
    host_not_allowed = ("it goes to %s: sallyport credential show %s"):format(report.several(record.hosts), record.name),
    mint_denied = "an agent is refused this too; name another URL, or set mint=allow",
  }
  if code == "oauth_not_connected" or code == "oauth_refresh_failed" then
    local pol = require("policy_store").load(record.type)
    hints[code] = pol and pol.connect and "sallyport connect " .. record.name or nil
  end
  if code == "path_not_allowed" then
    hints[code] = ("sallyport credential test %s %s"):format(record.name, M.root_url(record))
  end
  local text = tostring(message or code):gsub("^credential " .. record.name:gsub("%p", "%%%0") .. ":? ", "")
    :gsub("^does not go", "it does not go")
  report.fail(("'%s' was not sent: %s%s"):format(record.name, require("cli.policy_hints").of(text),
    why and ": " .. require("cli.policy_hints").of(why) or ""), hints[code])
end

local function configure(ctx, opt)
  local settings, trouble = require("cli.outside").configure(ctx)
  if not settings then report.fail(trouble) end
  local helpers = opt.helpers or settings.helpers
  if helpers then
    local ok, why = ctx.host.helpers(helpers)
    if not ok then report.fail(("--helpers %s: %s"):format(helpers, why)) end
  end
end

-- Its record in the request log, as an agent's request has one; its id. The host stands before the method: what has its members in another order than
-- an agent's is read whole (cli.log_record). The URL is the one that was named, in which no secret stands.
local function logged(record, url, began, answer, why)
  local time, json, id = require "time", require "json", select(2, require("host").random_token ""):sub(1, 16)
  local at, who = require("http").parse_url(url) or {}, require("changes").process or {}
  local parts = { ('{"time":%d,"request":"%s"'):format(time.wall_ms(), id) }
  local function put(name, value)
    if value ~= nil then parts[#parts + 1] = (',"%s":%s'):format(name, json.encode(value)) end
  end
  for _, name in ipairs { "by", "door", "from", "client" } do put(name, who[name]) end
  put("credential", record.name)
  put("decision", "allow")
  put("reason", "credential test")
  put("scheme", at.scheme)
  put("host", at.host)
  put("port", at.port)
  put("path", at.path)
  put("method", "GET")
  put("status", answer and answer.status)
  put("ms", time.now() - began)
  put("error", not answer and tostring(why) or nil)
  require("changes").write(table.concat(parts) .. "}")
  return id
end

--- Exit 0 where the upstream took the credential; 1 where it did not, or could not be asked.
function M.run(record, url, opt, ctx)
  local time = require "time"
  if url and not url:find("^%a[%w+.-]*://") then
    report.usage("a URL has a scheme", ("sallyport credential test %s https://%s"):format(record.name, report.clean(url)))
  end
  configure(ctx, opt)
  local deadline = time.now() + DEADLINE_MS
  local preset = record.preset and presets.get(record.preset)
  local own = { accept = "*/*" }
  if preset and not url then
    for name, value in pairs(preset.test_headers) do own[name] = value end
  end
  url = url or default_url(record, preset)
  -- code, message: where all is well, the TLS identity, and whether the credential names this very host
  local req, code, message, words = decision.trial(nil, {
    credential = record.name, method = "GET", url = url, headers = own, deadline = deadline,
    agent = opt.agent,
  })
  if not req then not_sent(record, code, message, words) end
  local target, headers, set = outgoing(req, own)
  local began = time.now()
  local answer, why, detail = require("route").client.request({
    method = "GET", url = url, target = target, headers = headers, expect = {}, max = MORE, addresses = record.addresses,
    tls = code, exact = message,
  }, deadline)
  local bare
  local token = token_of(record)
  local result = { credential = record.name, url = url, set = set, token = token and M.ends(token),
    token_expires_at = token and not M.endless(token) and token.expires_at or nil, disabled = record.enabled == false or nil }
  if answer then
    bare = #set == 0 and not code
    result.status, result.verdict = answer.status, verdict(answer.status, bare)
  else
    result.error, result.verdict = why, trouble[why] or tostring(why)
    if detail then result.verdict = result.verdict .. ": " .. detail end
    result.hint = mending(record.name, url, why, detail)
  end
  result.request = logged(record, url, began, answer, why)
  say(ctx, result)
  return answer and answer.status < 400 and not bare and 0 or 1
end

return M
