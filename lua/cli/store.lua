--- sallyport store rekey
local archive = require "cli.archive"
local db = require "cli.db"
local records = require "records"
local report = require "cli.report"

-- What a failure means here. Nothing was changed in any of these cases.
local said = {
  running = function(home) return ("a server runs on %s: stop it first"):format(home) end,
  clock = function() return "this machine's clock is not set: the old key's end could not be told", "set the clock" end,
  timeout = function(home) return ("another process holds %s/store"):format(home), "wait for the other command, or end it" end,
  refused = function(_, at)
    return ("%s is refused, and would be lost or count again; nothing was changed"):format(report.clean(at.record)),
      "sallyport doctor names what is refused, and what to do about it"
  end,
  full = function(home, at)
    return at and at.need and ("%s has %d MiB free, and the new store needs up to %d beside the old one; nothing was changed"):format(home,
      at.free >> 20, (at.need >> 20) + 1), "free some room and try again"
  end,
}

local function rekey(_, opt, ctx)
  local seconds, why = nil, nil
  if opt.texts then
    seconds, why = records.duration(opt.texts)
    if not seconds then report.usage("--texts: " .. why) end
  end
  db.open(ctx)
  seconds = seconds or archive.texts_span()
  local told, code, at = archive.rekey(ctx.home, seconds)
  ctx.opened = false
  if not told then
    local text, hint
    if said[code] then text, hint = said[code](ctx.home, at) end
    report.fail(text or ("cannot change the data key: %s; nothing was changed"):format(db.why(ctx.home, code, at)), hint or db.hint(code))
  end
  db.open(ctx)
  require("changes").record { { record = "the data key", did = "changed" } }
  report.answer(ctx, { home = ctx.home, changes = told.changes, old = report.array(told.old), dropped = told.dropped[1] and told.dropped or nil })
  ctx.note(("%s is under a new data key. Texts that were sealed before open until %s, if they last so long.\nBackups of before keep the old one: "
    .. "they are restored to another directory, or once this store is moved away. Take a new one."):format(ctx.home, report.time(told.old[#told.old].ends_at)))
  if told.unsynced then ctx.note("note: the disk did not say that the new store is on it: a power cut may bring the old one back") end
  if told.dropped[1] then
    ctx.note(("note: no more than %d old keys are kept: texts of before the change number %d open no more"):format(#told.old, told.dropped[#told.dropped].key + 1))
  end
  return 0
end

return {
  { words = "store rekey", max = 0, summary = "the store under a new data key; no server may run",
    options = { { name = "texts", arg = "TIME", help = "texts that were sealed before open for so long; seal-max, at least a day, when not set" } },
    help = [[
Seals all that is in the store under a new data key, while no proxy runs. The new store is made beside the old one and takes its
place at once: a kill leaves one of them, whole. It needs twice the store's size on the disk. The key file stays, and opens
the new data key. Nothing in the new store opens with the old one.

Agents keep their tokens and placeholders, clients of the door theirs. Texts that were sealed before (sallyport help sealed) open
until they end, --texts at most; MCP sessions begin anew. Old backups keep the old data key.

examples:
  sallyport store rekey
  sallyport store rekey --texts 1h
]], run = rekey },
}
