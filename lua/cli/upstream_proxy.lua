--- The upstream proxy as commands see it: its password from where secrets come from, and proxy variables that nobody reads.
local db = require "cli.db"
local fields = require "cli.fields"
local records = require "records"
local report = require "cli.report"
local M = {}

--- What serves agents there (127.0.0.1:7080, 0.0.0.0:7080) is no way out: requests would come back.
local function is_own(url, listen)
  local parts = records.proxy_parts(url)
  local here = parts and (parts.host == "localhost" or parts.host:find("^127%.") or parts.host == "::1")
  for _, l in ipairs(parts and listen or {}) do
    local address, port = l:match("^%[?(.-)%]?:(%d+)=?[^=]*$")
    local any = address == "0.0.0.0" or address == "::"
    if tonumber(port) == parts.port and (address == parts.host or here and (any or address:find("^127%.") or address == "::1")) then
      return true
    end
  end
  return false
end

function M.refuse_own(url, listen, label)
  if is_own(url, listen) then
    report.fail(("%s: that is this proxy itself"):format(label), "it names the proxy through which this network is left")
  end
end

--- The password of the proxy at `url` (canonical) | nil: it has none. text: "password=@FILE" and the like, or nil: it is
-- asked for on a terminal, else the one that is kept at this key with this very address stays.
function M.password(ctx, url, text, key, label)
  local a
  if text then
    a = records.assignment(text)
    if not a or a.name ~= "password" or a.key then
      report.usage(("%s takes its address and, perhaps, password=@FILE"):format(label))
    end
  elseif not records.proxy_parts(url).user then
    return nil
  elseif not ctx.host.isatty(0) then
    local kept = require("store").get("meta", key)
    if kept and kept.value == url and kept.secrets and kept.secrets.password then return kept.secrets.password end
  end
  return fields.secret(ctx, a or { name = "password", from = "ask" }, "password", {}, true)
end

--- The write that keeps it. password: a secret | nil.
function M.write(key, url, password)
  return { op = "put", db = "meta", key = key, plain = { name = "upstream-proxy", value = url },
    secrets = password and { password = password } or nil }
end

--- Proxy variables of this environment that are not used -> { "HTTPS_PROXY names 10.0.0.1:3128", … }, the address to set
-- | nil. Nothing of a value but host and port is repeated: a password may stand in it.
function M.unused(host, settings, listen)
  local out, seen, advice = {}, {}, nil
  for _, name in ipairs { "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy" } do
    local parts = records.proxy_parts(host.getenv(name) or "")
    local at = parts and ("http://%s:%d"):format(require("errors").host(parts.host), parts.port)
    local set = settings.upstream_proxy and records.proxy_parts(settings.upstream_proxy)
    local used = set and parts and set.host == parts.host and set.port == parts.port
    local value = host.getenv(name)
    if value and value ~= "" and not used and not seen[value] then
      seen[value] = true
      local own = at and is_own(at, listen)
      out[#out + 1] = own and ("%s names this proxy itself"):format(name) or at and ("%s names %s"):format(name, at)
        or ("%s is set"):format(name)
      advice = advice or not own and at or nil
    end
  end
  return out, advice
end

--- What to do about those.
function M.advice(at)
  return ("sallyport set upstream-proxy %s, if that is this network's way out"):format(at or "http://[USER@]HOST:PORT")
end

return M
