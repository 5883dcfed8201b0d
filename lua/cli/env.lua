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
  if agent.revoked or (agent.expires_at and agent.expires_at < now) then
    report.fail(("'%s' is %s"):format(name, agent.revoked and "revoked" or "expired"),
      "sallyport agent add, or agent set --ttl")
  end
  local ttl, why = records.duration(opt.ttl or "24h")
  if not ttl then report.usage("--ttl: " .. why) end
  local proxy = home.proxy_address(opt, ctx)
  local format = format_of(opt, ctx)
  local paths = ca_paths(opt, ctx, proxy)
  local existing = (host.getenv("NO_PROXY") or "") .. "," .. (host.getenv("no_proxy") or "")
  local _, star = env.no_proxy(existing)
  if star then ctx.note("note: NO_PROXY was '*', which sends everything past the proxy; that is left out") end
  if format == "docker" and (proxy:find("^127%.") or proxy:find("^%[::1%]") or proxy:find("^localhost:")) then
    ctx.note(("note: %s is this machine; in a container it is the container: --proxy HOST:PORT, or docker run --network host"):format(proxy))
  end
  local held, aws = placeholders(agent, ctx)
  local with = { proxy = proxy, agent = name, token = token or "", ca = paths.ca, bundle = paths.bundle,
    no_proxy = existing, placeholders = held, aws = aws ~= nil }
  local unfit, what = env.unfit(env.build(with), format)
  if unfit then
    report.fail(("%s has %s in its value, which the format %s cannot hold"):format(unfit, what, format),
      "--format sh can, or give it another value")
  end
  local expires = not token and math.min(now + ttl, agent.expires_at or math.huge) or nil
  if not token then
    local label, bad = records.text(opt.label or "env")
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

local function run(_, opt, ctx)
  local vars, format, name = list(opt, ctx)
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
has. With SALLYPORT_TOKEN set, that token is used and none is made. A value that a format cannot hold (a line
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
