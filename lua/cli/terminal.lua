--- What standard output is: how wide, and whether colours are seen there. A pipe gets neither.
local M = {}

local WIDTH_MIN, WIDTH_MAX = 40, 500

-- SGR numbers (ECMA-48 8.3.117) by what a text means.
local colours = { bad = "31", good = "32", warn = "33", head = "1", faint = "2" }

--- Columns of the terminal behind descriptor `fd` (1 unless said): COLUMNS, else what it says itself; nil where it is no
-- terminal, or does not know.
function M.width(ctx, fd)
  if ctx.columns ~= nil then return ctx.columns or nil end
  local there, columns = ctx.host.isatty(fd or 1)
  if not there then return nil end
  local said = (ctx.host.getenv("COLUMNS") or ""):match("^%d%d?%d?$")
  columns = said and math.tointeger(tonumber(said)) or columns
  return columns > 0 and math.max(WIDTH_MIN, math.min(columns, WIDTH_MAX)) or nil
end

--- Whether colours are wanted there: https://no-color.org, and TERM says that it knows them.
function M.colour(ctx, fd)
  if ctx.colour ~= nil then return ctx.colour end
  local term, none = ctx.host.getenv("TERM") or "", ctx.host.getenv("NO_COLOR") or ""
  return none == "" and term ~= "" and term ~= "dumb" and ctx.host.isatty(fd or 1) == true
end

--- text in the colour of `what` ("bad", "good", "warn", "head", "faint") where there are any; as it is otherwise.
function M.paint(ctx, what, text, fd)
  if not M.colour(ctx, fd) then return text end
  return ("\27[%sm%s\27[0m"):format(colours[what], text)
end

return M
