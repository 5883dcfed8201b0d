--- sallyport credential test: a token where the type has one, then one small read; what was set, by name.
local presets = require "presets"
local report = require "cli.report"
local M = {}

local DEADLINE_MS = 20000    -- a refresh may take 10 s, and the read as long
local MORE = 1 << 20         -- of the answer's body; it is thrown away

local trouble = {
  timeout = "the upstream did not answer in time",
  unreachable = "the upstream cannot be reached",
  tls = "TLS with the upstream failed",
  address_blocked = "its address is refused by the guard (see --address)",
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
  if host:find("$", 1, true) then
    report.usage("a host with a variable needs a URL", ("sallyport credential test %s https://…/"):format(record.name))
  end
  if host:sub(1, 2) == "*." then
    report.usage("a credential for a wildcard needs a URL",
      ("sallyport credential test %s https://…%s/"):format(record.name, host:sub(2)))
  end
  local port = record.ports and record.ports[1] or 443
  local path = record.paths and record.paths[1] or "/"
  return ("https://%s%s%s"):format(host:find(":", 1, true) and "[" .. host .. "]" or host, port ~= 443 and ":"
    .. port or "", path)
end

--- What an answer's status means for a credential.
local function verdict(status)
  if status == 401 then return "the upstream does not accept the credential" end
  if status == 403 then return "the upstream refuses this request, or the credential altogether" end
  if status >= 500 then return "the upstream is in trouble; that says nothing about the credential" end
  if status >= 300 and status < 400 then return "the upstream redirects; that says little about the credential" end
  return "the upstream accepts the request"
end

local function say(ctx, result)
  if ctx.json then
    result.set = report.array(result.set or {})
    ctx.out(report.json(result))
    return
  end
  ctx.out(("%s: GET %s\n"):format(result.credential, report.clean(result.url)))
  if result.token then ctx.out(("  token   %s\n"):format(result.token)) end
  ctx.out(("  set     %s\n"):format(#result.set > 0 and table.concat(result.set, ", ") or "nothing"))
  ctx.out(("  status  %s\n"):format(result.status or result.error))
  ctx.out(("  so      %s\n"):format(result.verdict))
end

-- How the token stands that the trial has just asked for; nil: the type has none.
local function token_of(record)
  local pol = require("policy").load(record.type)
  local state = pol and pol.refresh and require("store").peek("state", record.name)
  return state and state.expires_at and "valid until " .. report.time(state.expires_at) or nil
end

local function not_sent(record, code, message)
  local hints = {
    host_not_allowed = "it goes only where `credential show` says",
    mint_denied = "an agent is refused this too; name another URL, or set mint=allow",
  }
  if code == "oauth_not_connected" or code == "oauth_refresh_failed" then
    local pol = require("policy").load(record.type)
    hints[code] = pol and pol.connect and "sallyport connect " .. record.name or nil
  end
  report.fail(("'%s' was not sent: %s"):format(record.name, tostring(message or code)), hints[code])
end

-- Upstreams are reached as the running proxy reaches them; where none runs, as the kept settings say.
local function configure(ctx, opt)
  local running = require("cli.home").running(ctx)
  local settings = require("records").settings(running and running.flags)
  local ok, why = ctx.host.configure(settings)
  if not ok then report.fail(why) end
  local helpers = opt.helpers or settings.helpers
  if helpers then
    ok, why = ctx.host.helpers(helpers)
    if not ok then report.fail(("--helpers %s: %s"):format(helpers, why)) end
  end
end

--- Exit 0 where the upstream took the credential; 1 where it did not, or could not be asked.
function M.run(record, url, opt, ctx)
  local time = require "time"
  configure(ctx, opt)
  local deadline = time.now() + DEADLINE_MS
  local preset = record.preset and presets.get(record.preset)
  local own = { accept = "*/*" }
  if preset and not url then
    for name, value in pairs(preset.test_headers) do own[name] = value end
  end
  url = url or default_url(record, preset)
  local req, code, message = require("pipeline").trial {   -- code: where all is well, the TLS identity
    credential = record.name, method = "GET", url = url, headers = own, deadline = deadline,
    agent = opt.agent,
  }
  if not req then not_sent(record, code, message) end
  local target, headers, set = outgoing(req, own)
  local answer, why, detail = require("http_client").request({
    method = "GET", url = url, target = target, headers = headers, expect = {}, max = MORE, addresses = record.addresses,
    tls = code,
  }, deadline)
  local result = { credential = record.name, url = url, set = set, token = token_of(record) }
  if answer then
    result.status, result.verdict = answer.status, verdict(answer.status)
  else
    result.error, result.verdict = why, trouble[why] or tostring(why)
    if detail then result.verdict = result.verdict .. ": " .. detail end
  end
  say(ctx, result)
  return answer and answer.status < 400 and 0 or 1
end

return M
