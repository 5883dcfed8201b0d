--- What a terminal gets: lines of its width, colours by meaning, and never a control character of somebody else's text.
-- A pipe or a file gets the bytes as they are.
local report = require "cli.report"
local M = {}

local WIDTH_MIN, WIDTH_MAX = 40, 500
local HELP_MAX = 100       -- longer lines are hard to read, however wide the terminal

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

--- Columns for help texts: the terminal's, as far as lines are easy to read; 80 where nobody knows.
function M.help_width(ctx) return math.min(M.width(ctx) or 80, HELP_MAX) end

--- Whether colours are wanted there: https://no-color.org, and TERM says that it knows them.
function M.colour(ctx, fd)
  if ctx.colour ~= nil then return ctx.colour end
  local term, none = ctx.host.getenv("TERM") or "", ctx.host.getenv("NO_COLOR") or ""
  return none == "" and term ~= "" and term ~= "dumb" and ctx.host.isatty(fd or 1) == true
end

-- A colour travels as a mark that no other text of this process can hold: `safe` alone makes an escape sequence of it.
local mark
local function marked(ctx, number)
  mark = mark or "\1" .. ctx.host.random_token(""):gsub("%W", "")
  return mark .. number .. ";"
end

--- text in the colour of `what` ("bad", "good", "warn", "head", "faint") where there are any; as it is otherwise.
function M.paint(ctx, what, text, fd)
  if not what or text == "" or not M.colour(ctx, fd) then return text end
  return marked(ctx, colours[what]) .. text .. marked(ctx, "0")
end

--- What may be written to a terminal: control characters of C0 and C1 (ECMA-48) as \xNN, but for line ends and tabs;
-- the marks of `paint` as colours.
function M.safe(s)
  local function clean(part) return (part:gsub("[^\n\t]+", report.clean)) end
  if not mark then return clean(s) end
  local out = {}
  for text, number in (s .. mark .. ";"):gmatch("(.-)" .. mark .. "(%d*);") do
    out[#out + 1] = clean(text) .. (number ~= "" and ("\27[%sm"):format(number) or "")
  end
  return table.concat(out)
end

-- Words of a listing's state, and what they mean; the first that is found.
local states = {
  { "damaged", "bad" }, { "refused", "bad" }, { "failed", "bad" }, { "^bad", "bad" }, { "^DENY", "bad" }, { "does not run", "bad" },
  { "not connected", "warn" }, { "wants scopes", "warn" }, { "anew", "warn" }, { "^warn", "warn" }, { "^ASK", "warn" }, { "changed since", "warn" },
  { "^disabled", "faint" }, { "^revoked", "faint" }, { "^expired", "warn" },
  { "^enabled", "good" }, { "^active", "good" }, { "^connected", "good" }, { "^ok", "good" }, { "^ALLOW", "good" }, { "^runs", "good" },
  { "^in force", "good" },
}

--- The colour of a state's words, or nil.
function M.meaning(text)
  for _, row in ipairs(states) do
    if text:find(row[1]) then return row[2] end
  end
end

--- Rows of cells below a head (nil: none) as lines: report.columns, and at a terminal a table of its width. `state`: what
-- is painted by its meaning, a column's number, or of rows { name, text } the names. `indent`: columns at the left.
function M.columns(ctx, head, rows, state, indent)
  local width, left = M.width(ctx), (" "):rep(indent or 0)
  if not width then return (report.columns(head, rows):gsub("[^\n]+", left .. "%0")) end
  local all, count = {}, #(head or rows[1] or {})
  for i, row in ipairs(rows) do
    all[i] = {}
    for j = 1, count do all[i][j] = report.clean(row[j] == nil and "" or row[j]) end
  end
  return require("cli.page").table(all, width, {
    head = head, indent = indent, paint = function(what, text) return M.paint(ctx, what, text) end,
    meaning = function(j, row)
      local is = type(state) == "table" and j == 2 and state[row[1]] or j == state
      return is and M.meaning(row[j] or "") or nil
    end,
  }) .. "\n"
end

return M
