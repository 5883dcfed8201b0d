--- sallyport env
local db = require "cli.db"
local env = require "env"
local home = require "cli.home"
local records = require "records"
local report = require "cli.report"
local tokens = require "cli.tokens"

--- The agent whose token SALLYPORT_TOKEN is; it ends the command when it is nobody's.
local function owner(host, token, now)
  local record = db.peek("agent", "t/" .. host.sha256_hex(token), "the token")
  if not record or (record.expires_at and record.expires_at < now) then
    report.fail("SALLYPORT_TOKEN is no token of this store, or it has ended", "unset it, and a new one is made")
  end
  return record.agent
end

--- What a type wants set beside its placeholder: a client must not ask a person, say.
local function companions(cred, taken, out)
  local pol = require("policy_store").load(cred.type)
  local names = {}
  for name in pairs(pol and pol.env and pol.env.with or {}) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    if not taken[name] then
      taken[name] = cred.name
      out[#out + 1] = { name, pol.env.with[name] }
    end
  end
end

--- What the agent holds in the place of each credential that names a variable: the first in its bundles' order.
local function placeholders(agent, ctx)
  local rank = {}
  for i, b in ipairs(agent.bundles or {}) do rank[b] = rank[b] or i end
  local list = {}
  for _, cred in db.each("credential", "") do
    if cred and cred.env and cred.enabled ~= false then
      local best
      for _, b in ipairs(cred.bundles or {}) do
        if rank[b] and (not best or rank[b] < best) then best = rank[b] end
      end
      if best then list[#list + 1] = { cred = cred, rank = best } end
    end
  end
  table.sort(list, function(a, b)
    if a.rank ~= b.rank then return a.rank < b.rank end
    if a.cred.order ~= b.cred.order then return (a.cred.order or 0) < (b.cred.order or 0) end
    return a.cred.name < b.cred.name
  end)
  local out, taken = {}, {}
  for _, item in ipairs(list) do
    local held = records.held(agent.name, item.cred)
    for _, name in ipairs(item.cred.env_also or {}) do held[#held + 1] = { env = name, text = held[1].text } end
    for _, h in ipairs(held) do
      local name = h.env
      if taken[name] then
        ctx.note(("note: %s stands for '%s'; '%s' names the same variable"):format(name, taken[name], item.cred.name))
      else
        taken[name] = item.cred.name
        out[#out + 1] = { name, h.text }
      end
    end
    companions(item.cred, taken, out)
  end
  return out
end

local function proxy_address(opt, ctx)
  if opt.proxy then
    if not opt.proxy:find("^[%w._-]+:%d+$") and not opt.proxy:find("^%[[%x:.]+%]:%d+$") then
      report.usage("--proxy is HOST:PORT", "--proxy 127.0.0.1:7080")
    end
    return opt.proxy
  end
  -- Its listeners, with ports picked and flags obeyed.
  local running = home.running(ctx)
  if running and running.listen[1] then return env.reach(running.listen[1]) end
  local listen = records.settings(nil).listen[1]
  if listen:find(":0$") then
    report.fail("the proxy picks its port when it starts, so it must be named here",
      "--proxy HOST:PORT, as its `listening` line says")
  end
  if not ctx.host.lock_held(ctx.home) then ctx.note("note: the proxy does not run at the moment: sallyport serve") end
  return env.reach(listen)
end

local function run(_, opt, ctx)
  local host, now = ctx.host, nil
  db.open(ctx)
  now = require("time").wall()
  local token = host.getenv("SALLYPORT_TOKEN")
  if token == "" then token = nil end
  local name = opt.agent
  if token then
    local whose = owner(host, token, now)
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
  local proxy = proxy_address(opt, ctx)
  local paths = home.client_files(ctx)
  local existing = (host.getenv("NO_PROXY") or "") .. "," .. (host.getenv("no_proxy") or "")
  local _, star = env.no_proxy(existing)
  if star then ctx.note("note: NO_PROXY was '*', which sends everything past the proxy; that is left out") end
  local expires = not token and math.min(now + ttl, agent.expires_at or math.huge) or nil
  if not token then
    local label, bad = records.text(opt.label or "env")
    if not label then report.usage("--label: " .. bad) end
    db.change(function()
      local record = db.need("agent", name)
      if record.revoked then report.fail(("'%s' is revoked"):format(name), "sallyport agent add") end
      local ops, kept = tokens.drop(nil, now), nil
      token, kept = tokens.issue(host, name, label, math.tointeger(expires), now)
      ops[#ops + 1] = tokens.touch(record)
      ops[#ops + 1] = kept
      return ops
    end)
  end
  local list = env.build { proxy = proxy, agent = name, token = token, ca = paths.ca, bundle = paths.bundle,
    no_proxy = existing, placeholders = placeholders(agent, ctx) }
  if ctx.json then
    local out = {}
    for _, v in ipairs(list) do out[v[1]] = v[2] end
    ctx.out(report.json(out))
  else
    ctx.out(env.shell(list))
  end
  if host.isatty(1) then
    ctx.note(("In the agent's shell: eval \"$(%s env --agent %s)\""):format(home.command(ctx), name))
  end
  return 0
end

return {
  { words = "env", args = "--agent A", max = 0, summary = "the environment that a client needs",
    options = {
      { name = "agent", arg = "AGENT", help = "whose environment" },
      { name = "ttl", arg = "TIME", help = "its token ends after it; 24h unless named" },
      { name = "label", arg = "TEXT", help = "what `agent list --json` calls the token; `env` unless named" },
      { name = "proxy", arg = "HOST:PORT", help = "how the client reaches the proxy, where that is not `listen`" },
    },
    help = [[
Prints `export` lines for a shell: the proxy with a token of its own, the CA for every client that asks for
one under another name, and a placeholder for each credential that names a variable. NO_PROXY keeps what it
has. With SALLYPORT_TOKEN set, that token is used and none is made.

examples:
  eval "$(sallyport env --agent claude)"
  sallyport env --agent ci --ttl 2h > /run/ci.env
  sallyport env --agent box --proxy 10.0.2.2:7080
  sallyport env --agent claude --json
]], run = run },
}
