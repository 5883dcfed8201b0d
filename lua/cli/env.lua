--- sallyport env
local db = require "cli.db"
local env = require "env"
local home = require "cli.home"
local records = require "records"
local report = require "cli.report"
local tokens = require "cli.tokens"

-- What the agent holds in the place of its credentials, and the first of them that is for AWS.
local function placeholders(agent, ctx)
  local out, aws = require("holding").of(agent, ctx.note)
  if aws then
    ctx.note(("note: AWS_CA_BUNDLE is set, for '%s'; programs on Go's old AWS SDK that end with LoadCustomCABundleError "
      .. "(rclone) want it unset"):format(aws))
  end
  return out, aws
end

-- Where the agent finds the CA: --ca-dir names another place, where it was copied or mounted.
local function ca_paths(opt, ctx, proxy)
  local paths = home.client_files(ctx)
  local dir = opt.ca_dir and opt.ca_dir:gsub("(.)/+$", "%1")
  if dir and (dir:sub(1, 1) ~= "/" or dir:find("[%z\1-\31\127]")) then
    report.usage("--ca-dir is a folder, named from the root", "--ca-dir /etc/sallyport")
  end
  if dir then return { ca = dir .. "/ca.pem", bundle = dir .. "/bundle.pem" } end
  local shut = home.shut(ctx, paths.ca)
  if shut then
    ctx.note(("note: other users cannot enter %s, so an agent that runs as one cannot read %s. As that user, and with "
      .. "--ca-dir DIR here:\n  curl -s http://%s/ca.pem > DIR/ca.pem; cat %s DIR/ca.pem > DIR/bundle.pem"):format(
      report.clean(shut), report.clean(paths.ca), proxy, require("records").system_roots() or "/etc/ssl/certs/ca-certificates.crt"))
  end
  return paths
end

local function format_of(opt, ctx)
  local format = opt.format or ctx.json and "json" or "sh"
  for _, known in ipairs(env.formats) do
    if known == format and (not ctx.json or known == "json") then return format end
  end
  report.usage(ctx.json and "--json and --format name two formats" or "--format is one of " .. table.concat(env.formats, ", "),
    "--format fish")
end

-- How the text gets to where it is read, for somebody who sees it on a terminal.
local used = {
  sh = 'In the agent\'s shell: eval "$(%s env --agent %s)"',
  fish = "In the agent's shell: %s env --agent %s --format fish | source",
  docker = "%s env --agent %s --format docker > FILE; docker run --env-file FILE …",
  systemd = "%s env --agent %s --format systemd > FILE; in its unit: EnvironmentFile=FILE",
}

-- The variables, with a token that is made where none is set; and the format in which they are asked for.
local function list(opt, ctx)
  local host, now = ctx.host, nil
  db.open(ctx)
  now = require("time").wall()
  local token = host.getenv("SALLYPORT_TOKEN")
  if token == "" then token = nil end
  local name = opt.agent
  if token then
    local whose = tokens.owner(host, token, now)
    if name and name ~= whose then
      report.fail(("SALLYPORT_TOKEN belongs to '%s', not to '%s'"):format(whose, report.clean(name)),
        "unset it, and a new one is made")
    end
    if opt.ttl then
      report.usage("--ttl is for a new token, and SALLYPORT_TOKEN is set", "unset it, and a new one is made")
    end
    name = whose
  elseif not name then
    report.usage("--agent is missing: whose environment?", "sallyport env --agent NAME; sallyport agent list")
  end
  local agent = db.need("agent", name)
  local state = require("cli.shape").agent_state(agent, now)
  if state ~= "active" then
    report.fail(("'%s' is %s"):format(name, state), state == "disabled" and "sallyport agent enable " .. name or "sallyport agent add, or agent set --ttl")
  end
  local ttl, why = records.duration(opt.ttl or "24h")
  if not ttl then report.usage("--ttl: " .. why) end
  local proxy, own = home.proxy_address({ proxy = opt.proxy, agent = name }, ctx)
  if own and (opt.ttl or opt.label) then
    report.usage(("--%s is for a token, and what comes to %s is '%s' without one"):format(opt.ttl and "ttl" or "label", proxy, name),
      "--proxy HOST:PORT names a listener that asks for a token")
  end
  local format = format_of(opt, ctx)
  local paths = ca_paths(opt, ctx, proxy)
  local existing = (host.getenv("NO_PROXY") or "") .. "," .. (host.getenv("no_proxy") or "")
  local _, star = env.no_proxy(existing)
  if star then ctx.note("note: NO_PROXY was '*', which sends everything past the proxy; that is left out") end
  if format == "docker" and (proxy:find("^127%.") or proxy:find("^%[::1%]") or proxy:find("^localhost:")) then
    ctx.note(("note: %s is this machine; in a container it is the container: --proxy HOST:PORT, or docker run --network host"):format(proxy))
  end
  local held, aws = placeholders(agent, ctx)
  local with = { proxy = proxy, agent = name, token = not own and (token or "") or nil, ca = paths.ca, bundle = paths.bundle,
    no_proxy = existing, vault = agent.bundles and agent.bundles[1], placeholders = held, aws = aws ~= nil }
  local unfit, what = env.unfit(env.build(with), format)
  if unfit then
    report.fail(("%s has %s in its value, which the format %s cannot hold"):format(unfit, what, format),
      "--format sh can, or give it another value")
  end
  if own then return env.build(with), format, name end
  local expires = not token and math.min(now + ttl, agent.expires_at or math.huge) or nil
  if not token then
    local label, bad = records.text(opt.label or opt.made_for or "env")
    if not label then report.usage("--label: " .. bad) end
    token = tokens.make(host, name, label, expires, now)
  end
  if expires and now < (host.build_time or 0) then
    ctx.note(("note: this machine's clock is not set (%s): a token with an end has ended once it is. `%s` then makes a new one"):format(
      report.time(now) or now, "sallyport env"))
  end
  with.token = token
  return env.build(with), format, name
end

-- For the user of an agent, whose store it is not: the server says what he would read, and a listener of the agent's own is the
-- way, for a token is the owner's to make. nil: there is no such server.
local function visitors(opt, ctx)
  local control = require "cli.control_client"
  local what, why, hint = control.visitor(ctx)
  if why then report.fail(report.clean(why), hint and report.clean(hint)) end
  if not what then return nil end
  if opt.agent and opt.agent ~= what.agent then
    report.fail(("this user is agent %s's, not %s's"):format(report.clean(what.agent), report.clean(opt.agent)))
  end
  local at = opt.proxy or what.listener
  local port = type(at) == "string" and at:match("^[%w.:%[%]_-]+:(%d+)$")
  if not port or at ~= what.listener then
    report.fail(("there is no listener of agent %s's own%s, and tokens are the owner's to make"):format(report.clean(what.agent), opt.proxy and " at " .. report.clean(opt.proxy) or ""),
      "sallyport run -- CMD… needs none")
  end
  if opt.ttl or opt.label then report.usage("--ttl and --label are for a token, and none is made here") end
  local format, dir = format_of(opt, ctx), opt.ca_dir or what.public or what.home .. "-public"
  if not opt.ca_dir and ctx.host.read_file(dir .. "/ca.pem", 1 << 20) ~= what.ca then
    report.fail("the CA cannot be read in " .. report.clean(dir), ("curl -s http://%s/ca.pem > DIR/ca.pem, and --ca-dir DIR"):format(report.clean(at)))
  end
  local shown = dir:gsub("[^%w/._~-]", function(c) return ("%%%02X"):format(c:byte()) end)
  what, why = control.visitor(ctx, ("?port=%s&ca=%s/ca.pem&bundle=%s/bundle.pem"):format(port, shown, shown))
  if not what or type(what.env) ~= "table" then report.fail(report.clean(why or "the server does not answer")) end
  local vars, existing = {}, (ctx.host.getenv("NO_PROXY") or "") .. "," .. (ctx.host.getenv("no_proxy") or "")
  for name, value in pairs(what.env) do
    if name:lower() == "no_proxy" then value = env.no_proxy(existing) end
    vars[#vars + 1] = { name, (tostring(value):gsub("^http://127%.0%.0%.1:" .. port .. "$", "http://" .. at)) }
  end
  table.sort(vars, function(a, b) return a[1] < b[1] end)
  local unfit, bad = env.unfit(vars, format)
  if unfit then report.fail(("%s has %s in its value, which the format %s cannot hold"):format(unfit, bad, format)) end
  return vars, format, what.agent
end

local function run(_, opt, ctx)
  local vars, format, name = visitors(opt, ctx)
  if not vars then vars, format, name = list(opt, ctx) end
  if format == "json" then
    local out = {}
    for _, v in ipairs(vars) do out[v[1]] = v[2] end
    ctx.out(report.json(out))
  else
    ctx.out(env.text(vars, format))
  end
  if ctx.host.isatty(1) and used[format] then ctx.note(used[format]:format(home.command(ctx), name)) end
  return 0
end

return {
  list = list,
  { words = "env", args = "--agent A", max = 0, summary = "the environment that a client needs",
    options = {
      { name = "agent", arg = "AGENT", help = "whose environment" },
      { name = "ttl", arg = "TIME", help = "its token ends after it; 24h unless named" },
      { name = "label", arg = "TEXT", help = "what `agent list --json` calls the token; `env` unless named" },
      { name = "format", arg = "FORMAT", of = env.formats, help = "sh, fish, docker (--env-file), systemd (EnvironmentFile=) or json; sh unless named" },
      { name = "ca-dir", arg = "DIR", help = "where the agent has ca.pem and bundle.pem, where that is not here" },
      { name = "proxy", arg = "HOST:PORT", help = "how the client reaches the proxy, where that is not `listen`" },
    },
    help = [[
Prints `export` lines for a shell: the proxy with a token of its own, the CA for every client that asks for
one under another name, and a placeholder for each credential that names a variable. NO_PROXY keeps what it
has. With SALLYPORT_TOKEN set, that token is used and none is made; nor for a listener that is the agent's alone (127.0.0.1:7090=A). A value that a format cannot hold (a line
break in Docker's file) is refused.

examples:
  eval "$(sallyport env --agent claude)"
  sallyport env --agent ci --ttl 2h > /run/ci.env
  sallyport env --agent box --proxy 10.0.2.2:7080 --ca-dir /etc/sallyport
  sallyport env --agent claude --format fish | source
  sallyport env --agent box --format docker > box.env; docker run --env-file box.env …
  sallyport env --agent bot --format systemd > /etc/bot.env   # EnvironmentFile=
  sallyport env --agent claude --json
]], run = run },
}
