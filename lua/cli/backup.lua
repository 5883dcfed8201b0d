--- sallyport backup, restore
local archive = require "cli.archive"
local db = require "cli.db"
local home = require "cli.home"
local report = require "cli.report"

local function backup(args, _, ctx)
  local file = args[1]
  if file == "-" and ctx.json then report.usage("standard output is the backup itself, so no JSON", "sallyport backup FILE --json") end
  if file == "-" and ctx.host.isatty(1) then
    report.usage("a backup is binary", "name a file, or send it on: sallyport backup - | …")
  end
  if file ~= "-" and ctx.host.stat(file) then report.fail(report.clean(file) .. " is there already",
    "name another file") end
  db.open(ctx)
  local ok, code, detail = archive.save(file, ctx.host)
  if not ok then report.fail(("the backup was not written: %s"):format(tostring(detail or code))) end
  report.answer(ctx, { file = file, home = ctx.home })
  ctx.note(("%s holds the whole store, sealed. The key file is not in it: keep a copy of\n  %s/key\nin another place; "
    .. "one without the other is of no use."):format(file == "-" and "The backup" or file, ctx.home))
  return 0
end

-- The store says what is wrong; this is what to do about it.
local restore_hints = {
  running = "it would go on with what it has read",
  key_absent = "the key file belongs at %s/key",
  wrong_key = "the key file belongs at %s/key; nothing was changed",
  other_store = "or restore to another directory, with the backup's key file in it: sallyport --home DIR restore FILE",
  newer_format = "use that version; nothing was changed",
  full = "free some room and try again; nothing was changed",
}

-- What reaches something now, by record: tokens of agents that count, credentials, domain entries, who may come in by the door.
local function reach()
  local now, agents, set = require("time").wall(), {}, {}
  for _, a in db.each("agent", "a/") do
    if a and not a.revoked and a.enabled ~= false and not (a.expires_at and a.expires_at <= now) then agents[a.name] = true end
  end
  for key, token in db.each("agent", "t/") do
    if token and agents[token.agent] and not (token.expires_at and token.expires_at <= now) then
      set[key] = "a token of agent " .. token.agent
    end
  end
  for key, c in db.each("credential", "") do
    if c and c.enabled ~= false then set["c/" .. key] = "credential " .. key end
  end
  for key, g in db.each("grant", "") do
    if g then set["g/" .. key] = g.connection and ("a connection of %s for %s"):format(g.user, g.tenant) or "key " .. g.name end
  end
  for key, u in db.each("user", "u/") do
    if u and not u.disabled then set["u/" .. key] = "user " .. u.name end
  end
  for key, b in db.each("bundle", "") do
    local bundle, host = key:match("^([^/]+)/(.+)$")
    if not host and b and b.enabled ~= false then set["b/" .. key] = "bundle " .. key end
    if host and not (b and b.enabled == false) then set["b/" .. key] = ("%s in bundle %s"):format(host, bundle) end
  end
  return set
end

-- What was ended since the backup was taken, and is in force again.
local function back_again(before, after)
  local list, seen = {}, {}
  for key, what in pairs(after) do
    if not before[key] and not seen[what] then
      seen[what] = true
      list[#list + 1] = report.clean(what)
    end
  end
  table.sort(list)
  return list
end

local function restore(args, _, ctx)
  local before = require("store").open(ctx.home, {}) and reach() or nil
  local ok, code, detail = archive.load(args[1], ctx.home)
  if not ok then
    local hint = restore_hints[code]
    report.fail(tostring(detail or code), hint and hint:format(ctx.home))
  end
  ctx.opened = true
  home.try_client_files(ctx)
  ctx.note(("%s is as the backup had it; tokens that were newer were kept."):format(ctx.home))
  local back = before and back_again(before, reach()) or {}
  report.answer(ctx, { home = ctx.home, in_force_again = report.array(back) })
  if back[1] then
    ctx.note("note: not there, or not in force, before, and in force again:\n  " .. table.concat(back, "\n  ")
      .. "\n(agent revoke, agent rotate, credential remove, domain remove end them; agent, bundle, domain and credential disable.)")
  end
  return 0
end

return {
  { words = "backup", args = "FILE", min = 1, max = 1, summary = "the whole store, sealed; also while serving",
    help = [[
Writes a snapshot of the store to FILE, or to standard output for '-'. It can be taken while the proxy serves.
Secrets stay sealed and the key file is not in it, so a backup alone opens nothing: keep a copy of the key
file in another place.

examples:
  sallyport backup sallyport-$(date +%F).backup
  sallyport backup - | ssh elsewhere 'cat > sallyport.backup'
]], run = backup },
  { words = "restore", args = "FILE", min = 1, max = 1, summary = "put a backup back; no server may run", help = [[
Puts a backup in the place of the store, while no proxy runs. The data directory must have the key file that
belongs to it. Live tokens that are newer than the backup stay: a provider that rotates them would refuse the old.
What was revoked, rotated, disabled or removed since is in force again: it is named.

examples:
  sallyport restore sallyport-2026-01-31.backup
  mkdir -m 700 /srv/new && cp key.copy /srv/new/key && sallyport --home /srv/new restore sallyport.backup
]], run = restore },
}
