--- sallyport seal show, revoke: sealed texts, which stand for secrets that an API handed out (lua/seal.lua).
local db = require "cli.db"
local report = require "cli.report"
local terminal = require "cli.terminal"

-- The name of the record of that id | nil: there is none (any more).
local function named(where, prefix, id)
  for key, rec in db.each(where, prefix) do
    if rec and rec.id == id then return key:sub(#prefix + 1), rec end
  end
end

-- The row of the credential that the text names, as it is now.
local function row_of(rec, number)
  local pol = rec and require("policy_store").load(rec.type)
  local rows = pol and require("seal").rows_of(pol, rec.preset and require("presets").get(rec.preset))
  return require("seal").by_id(rows, number)
end

local TEXT_MAX = 1 << 20    -- bytes of standard input: an answer is no longer

local function show(args, _, ctx)
  db.open(ctx)
  local text = args[1]
  if text == "-" then text = io.stdin:read(TEXT_MAX) end
  local found = require("seal").read(text or "")
  if not found then
    report.fail("that is no sealed text", "it begins with a prefix, or with a JWT's header and claims, and has a mark behind it")
  end
  local now = require("time").wall()
  local agent = named("agent", "a/", found.agent)
  local name, rec = named("credential", "", found.credential)
  local row = row_of(rec, found.row)
  local places, hosts = {}, {}
  for i, place in ipairs(row and row.opens or {}) do places[i] = require("cli.seal_try").place(place, true) end
  for _, list in ipairs { rec and rec.hosts or {}, rec and rec.seal_hosts or {}, row and row.hosts or {} } do
    for _, host in ipairs(list) do hosts[#hosts + 1] = host end
  end
  local state = found.ends <= now and "expired" or not agent and "its agent is gone" or not name and "its credential is gone"
    or not row and "its row is gone" or rec.enabled == false and "its credential is disabled"
    or rec.mint == "refuse" and "its credential has mint=refuse" or "opens, unless it was revoked"
  local out = { agent = agent, agent_id = found.agent, credential = name, credential_id = found.credential, expires_at = found.ends,
    expired = found.ends <= now, call = row and require("seal").call(row), opens = report.array(places), hosts = report.array(hosts),
    shape = found.shape, kept = found.kept ~= "" and found.kept or nil, state = state }
  report.answer(ctx, out)
  if not ctx.json then
    local lines = {
      { "agent", agent or ("%s (there is none of that id)"):format(found.agent) },
      { "credential", name or ("%s (there is none of that id)"):format(found.credential) },
      { "ends", report.time(found.ends) }, { "made by", out.call or "a call that no row names any more" },
      { "opens in", places[1] and table.concat(places, ", ") }, { "opens at", hosts[1] and table.concat(hosts, ", ") },
      { "looks like", found.shape == "jwt" and "a JWT: its header and claims are as the server made them" or out.kept },
      { "state", state },
    }
    local rows = {}
    for _, line in ipairs(lines) do
      if line[2] then rows[#rows + 1] = { line[1], report.clean(line[2]) } end
    end
    ctx.out(terminal.columns(ctx, nil, rows))
  end
  return 0
end

local function revoke(_, opt, ctx)
  if (opt.agent == nil) == (opt.credential == nil) then report.usage("one of --agent and --credential says whose sealed texts end") end
  db.open(ctx)
  local where, key, name = "credential", opt.credential, opt.credential
  if opt.agent then where, key, name = "agent", "a/" .. opt.agent, opt.agent end
  db.change(function()
    local record = db.need(where, name)
    return { { op = "put", db = where, key = key, version = record.version, plain = db.plain(record), keep = true, moves = true } }
  end)
  ctx.note(("What was sealed for '%s' opens no more."):format(name))
  report.answer(ctx, { revoked = name, kind = where })
  return 0
end

return {
  { words = "seal show", args = "TEXT", min = 1, max = 1, summary = "what a sealed text is bound to, never what is in it", help = [[
Tells whose a sealed text is, when it ends, which call made it, and where it opens. TEXT may be all that stands around it, or -
for standard input. A sealed text is worth nothing elsewhere, so it may stand on the command line.

example:
  sallyport seal show "$REGISTRY_TOKEN"
]], run = show },
  { words = "seal revoke", max = 0, summary = "ends all that was sealed for an agent or a credential",
    options = { { name = "agent", arg = "AGENT", help = "what was sealed for this agent" },
      { name = "credential", arg = "CREDENTIAL", help = "what came of this credential's calls" } }, help = [[
What was sealed before opens no more; the agent's token and the credential's secret stay. `agent rotate`, `agent revoke`,
`credential disable` and a new secret do the same. The API's own secret lives on: where it can, revoke it there too.

examples:
  sallyport seal revoke --credential ghcr
  sallyport seal revoke --agent claude
]], run = revoke },
}
