--- sallyport credential test: a token where the type has one, then one small read; what was set, by name.
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

--- The request as `apply` left it: what goes out, and the names of what was set.
local function outgoing(req, own)
  local headers, set, was = {}, {}, {}
  for _, name in ipairs(own) do was[name] = true end
  local view = req:view()
  for _, name in ipairs(view.headers:names()) do
    headers[#headers + 1] = { name, view.headers:get(name) }
    if not was[name] then set[#set + 1] = name end
  end
  table.sort(set)
  return headers, set
end

local function default_url(record)
  local host = record.hosts[1]
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
  ctx.out(("  set     %s\n"):format(#result.set > 0 and table.concat(result.set, ", ") or "nothing"))
  ctx.out(("  status  %s\n"):format(result.status or result.error))
  ctx.out(("  so      %s\n"):format(result.verdict))
end

--- Exit 0 where the upstream took the credential; 1 where it did not, or could not be asked.
function M.run(record, url, opt, ctx)
  local time = require "time"
  local ok, trouble_with = ctx.host.configure(require("records").settings(nil))   -- roots, connect-to, the guard
  if not ok then report.fail(trouble_with) end
  local deadline = time.now() + DEADLINE_MS
  url = url or default_url(record)
  local own = { accept = "*/*" }
  local req, code, message = require("pipeline").trial {   -- code: where all is well, the TLS identity
    credential = record.name, method = "GET", url = url, headers = own, deadline = deadline,
    agent = opt.agent,
  }
  if not req then
    report.fail(("'%s' was not sent: %s"):format(record.name, tostring(message or code)),
      code == "host_not_allowed" and "it goes only where `credential show` says" or nil)
  end
  local headers, set = outgoing(req, { "accept", "host" })
  local answer, why, detail = require("http_client").request({
    method = "GET", url = url, headers = headers, expect = {}, max = MORE, addresses = record.addresses,
    tls = code,
  }, deadline)
  local result = { credential = record.name, url = url, set = set }
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
