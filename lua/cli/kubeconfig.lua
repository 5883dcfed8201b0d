--- A kubeconfig for `credential sandbox-file`: with it kubectl and its like reach a cluster through the proxy. It trusts our
-- CA, which signs what they see, and holds a placeholder for a token.
local db = require "cli.db"
local home = require "cli.home"
local records = require "records"
local report = require "cli.report"
local route = require "route"
local tokens = require "cli.tokens"
local M = {}

local SERVERS_MAX = 64   -- of one file: a person chooses among its contexts by name

-- Which types send nothing that a cluster takes for a token, and what to do; `header`: where others send theirs.
local function check_type(rec, pol, view)
  if pol.name:find("^aws_") and pol.sends_secret == false then
    report.fail(("'%s' signs requests for AWS, which no cluster takes"):format(rec.name),
      "a credential of the type aws_eks makes the tokens that EKS takes, of the same keys")
  elseif pol.sends_secret == false or pol.name == "body_parameter" or pol.name == "substitute"
    or view.header and view.header:lower() ~= "authorization" then
    report.fail(("'%s' sends no Authorization, where a cluster looks for a token"):format(rec.name),
      "sallyport credential add NAME --preset kubernetes")
  end
end

-- ---- servers -------------------------------------------------------------------------------------

local function covers(rule, host)
  local suffix = rule:match("^%*(%..+)$")
  if suffix then return #host > #suffix and host:sub(-#suffix) == suffix end
  if not rule:find("$", 1, true) then return rule == host end
  local pattern = rule:gsub("%${[^}]*}", "\0"):gsub("%W", "%%%0"):gsub("%%%z", "[^.]+")
  return host:find("^" .. pattern .. "$") ~= nil
end

local function any(list, test)
  for _, item in ipairs(list) do
    if test(item) then return true end
  end
  return false
end

-- { host, port, path }: the credential goes there. Ends the command for any other URL.
local function server_of(rec, text)
  local scheme = text:match("^(%a[%w+.-]*)://")
  if not scheme then report.usage("--server is a URL", "--server https://10.0.0.5:6443") end
  if scheme:lower() ~= "https" then report.usage("--server begins with https://: a cluster takes no token without TLS") end
  local url, why = require("http").parse_url(text)
  if not url or text:find("[?#@]") or not text:find("^[%w:/%[%]._~%%!$&()*+,;=-]+$") then
    report.usage(("--server is a URL with a host, a port and a path%s"):format(why and (": " .. why) or ""), "--server https://10.0.0.5:6443")
  end
  if not any(rec.hosts or {}, function(rule) return covers(rule, url.host) end) then
    report.fail(("'%s' does not go to %s"):format(rec.name, url.host), "sallyport credential set --host names where it may go")
  elseif not any(rec.ports or { 443 }, function(port) return port == url.port end) then
    report.fail(("'%s' does not go to port %d"):format(rec.name, url.port), ("sallyport credential set %s --port %d"):format(rec.name, url.port))
  end
  return { host = url.host, port = url.port, path = url.path:gsub("/+$", "") }
end

-- Those that are named; else each host and port that the credential says exactly.
local function servers_of(rec, given)
  local list = {}
  for i, text in ipairs(given or {}) do list[i] = server_of(rec, text) end
  if given then return list end
  for _, host in ipairs(rec.hosts or {}) do
    if not host:find("[*$]") then
      for _, port in ipairs(rec.ports or { 443 }) do
        if not (rec.plain_http and port == 80) then list[#list + 1] = { host = host, port = port, path = "" } end
      end
    end
  end
  if #list == 0 then
    report.usage(("which server? '%s' names no host exactly"):format(rec.name), "--server https://HOST:PORT, as the cluster's own kubeconfig says it")
  end
  return list
end

local function url_of(s)
  return ("https://%s%s%s"):format(require("errors").host(s.host), s.port ~= 443 and ":" .. s.port or "", s.path)
end

-- Go's clients go past every proxy to this machine, and to what NO_PROXY says, unless the kubeconfig names one.
local function goes_past(s, no_proxy)
  local literal = require("addr").parse(s.host)
  if literal then
    local why = require("addr").guard(literal)
    if why and why:find("loopback", 1, true) then return "a client takes no proxy to this machine" end
  elseif s.host == "localhost" then
    return "a client takes no proxy to this machine"
  end
  return route.listed(no_proxy, s.host, s.port) and "NO_PROXY has it" or nil
end

-- ---- the file ------------------------------------------------------------------------------------

-- As JSON, whose texts YAML reads the same way (YAML 1.2.2, 5.7): no name is a number, a truth or null by accident.
local function quoted(text) return require("json").encode(text) end

local function yaml(rec, servers, ca, token, proxy)
  local lines = { "apiVersion: v1", "kind: Config", "preferences: {}", "clusters:" }
  local function add(format, ...) lines[#lines + 1] = format:format(...) end
  for _, s in ipairs(servers) do
    add("- name: %s", quoted(s.name))
    add("  cluster:")
    add("    server: %s", quoted(url_of(s)))
    if proxy then add("    proxy-url: %s", quoted(proxy)) end
    add("    certificate-authority-data: %s", quoted(require("secret").base64(ca)))
  end
  add("users:")
  add("- name: %s", quoted(rec.name))
  add("  user:")
  add("    token: %s", quoted(token))
  add("contexts:")
  for _, s in ipairs(servers) do
    add("- name: %s", quoted(s.name))
    add("  context:")
    add("    cluster: %s", quoted(s.name))
    add("    user: %s", quoted(rec.name))
  end
  add("current-context: %s", quoted(servers[1].name))
  return table.concat(lines, "\n") .. "\n"
end

-- What a request there would meet, where it is not this credential: said now, since kubectl shows little of it.
local function foretell(ctx, rec, agent, servers)
  local decision, pipeline = require "cli.decision", nil
  for _, s in ipairs(servers) do
    pipeline = pipeline or require("worker").build { command = true }
    local url = url_of(s) .. "/api"
    local d = decision.explain(pipeline, { agent = agent.name, method = "GET", url = url, presents = rec.name })
    if d and d.decision == "allow" then require("cli.guard").last_word(ctx, d) end
    if d and (d.decision ~= "allow" or d.credential ~= rec.name) then
      ctx.note(("note: GET %s %s"):format(url, d.decision == "allow" and ("would go with '%s'"):format(d.credential or d.domain)
        or ("would be refused: %s%s"):format(d.message or d.code, d.hint and ("; " .. d.hint) or "")))
    end
  end
end

-- The URL of the proxy with a token in it, and when that ends; nil where clients find the proxy by themselves.
local function proxy_url(ctx, opt, agent, servers)
  local host, why = ctx.host, opt.proxy and "--proxy names it"
  local no_proxy = {}
  for item in ((host.getenv("NO_PROXY") or "") .. "," .. (host.getenv("no_proxy") or "")):gmatch("[^,%s]+") do
    if item ~= "*" then no_proxy[#no_proxy + 1] = item end      -- which `env` leaves out
  end
  for _, s in ipairs(servers) do why = why or goes_past(s, no_proxy) end
  if not why then
    if opt.ttl then report.usage("--ttl is for a token of the proxy's, and this file needs none", "--proxy HOST:PORT writes one into it") end
    return nil
  end
  local now = require("time").wall()
  local state = require("cli.shape").agent_state(agent, now)
  if state ~= "active" then
    report.fail(("'%s' is %s"):format(agent.name, state), state == "disabled" and "sallyport agent enable " .. agent.name or "sallyport agent add, or agent set --ttl")
  end
  local ttl, bad = records.duration(opt.ttl or "24h")
  if not ttl then report.usage("--ttl: " .. bad) end
  local address, own = home.proxy_address(opt, ctx)
  if own then
    if opt.ttl then report.usage(("--ttl is for a token, and what comes to %s is '%s' without one"):format(address, agent.name)) end
    ctx.note(("note: the file names the proxy (%s), at a listener that is %s's without a token"):format(why, agent.name))
    return require("env").proxy_url(agent.name, nil, address)
  end
  local token, ends = host.getenv("SALLYPORT_TOKEN"), nil
  if token and token ~= "" then
    local whose
    whose, ends = tokens.owner(host, token, now)
    if whose ~= agent.name then
      report.fail(("SALLYPORT_TOKEN belongs to '%s', not to '%s'"):format(whose, agent.name), "unset it, and a new one is made")
    elseif opt.ttl then
      report.usage("--ttl is for a new token, and SALLYPORT_TOKEN is set", "unset it, and a new one is made")
    end
  else
    ends = math.tointeger(math.min(now + ttl, agent.expires_at or math.huge))
    token = tokens.make(host, agent.name, "kubeconfig", ends, now)
  end
  ctx.note(("note: the file names the proxy (%s), with a token of %s's that ends %s"):format(
    why, agent.name, ends and "at " .. report.time(ends) .. " (--ttl)" or "when it is rotated"))
  return require("env").proxy_url(agent.name, token, address), ends
end

--- text, when what is in it ends (Unix s | nil). placeholder: what stands for the cluster's token.
function M.text(ctx, opt, rec, pol, view, agent, placeholder)
  check_type(rec, pol, view)
  local servers = servers_of(rec, opt.server)
  if #servers > SERVERS_MAX then report.fail(("more than %d servers"):format(SERVERS_MAX), "--server names one") end
  local ports = any(servers, function(s) return s.host == servers[1].host and s.port ~= servers[1].port end)
  for _, s in ipairs(servers) do
    s.name = #servers == 1 and rec.name or ("%s@%s%s"):format(rec.name, s.host, ports and ":" .. s.port or "")
  end
  local ca = db.peek("meta", "ca", "the certificate authority")
  if not ca then report.fail("the data directory has no certificate authority", "sallyport init makes it") end
  foretell(ctx, rec, agent, servers)
  local proxy, ends = proxy_url(ctx, opt, agent, servers)
  return yaml(rec, servers, ca.pem, placeholder, proxy), ends
end

return M
