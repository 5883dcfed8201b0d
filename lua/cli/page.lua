--- Help texts on a terminal of 80 columns, the width that every terminal has at least.
local M = {}

local WIDTH = 80
local FOLD_MIN = 24       -- a narrower column is no column: a word a line

local function width(s) return utf8.len(s) or #s end

-- Pieces in lines of at most `room` columns, joined by a space; a piece that is wider has a line of its own.
local function filled(pieces, room)
  local lines = {}
  for _, piece in ipairs(pieces) do
    local last = lines[#lines]
    if last and width(last) + 1 + width(piece) <= room then
      lines[#lines] = last .. " " .. piece
    else
      lines[#lines + 1] = piece
    end
  end
  return lines
end

local function words(text)
  local list = {}
  for word in text:gmatch("%S+") do list[#list + 1] = word end
  return list
end

--- Prose in lines of at most `room` columns; `indent` is what every line but the first begins with.
function M.fill(text, room, indent)
  indent = indent or ""
  return table.concat(filled(words(text), room - #indent), "\n" .. indent)
end

--- Rows of cells as a table of at most `room` columns, the first row painted by `head`. The last column is folded; where it has no room beside the others,
-- its cells stand below them.
function M.table(rows, room, head)
  local widths, lines, count = {}, {}, 0
  for _, row in ipairs(rows) do
    count = math.max(count, #row)
    for j, cell in ipairs(row) do widths[j] = math.max(widths[j] or 0, width(cell)) end
  end
  local indent = "  "
  for j = 1, count - 1 do indent = indent .. (" "):rep(widths[j] + 2) end
  local beside = room - #indent >= FOLD_MIN
  if not beside then indent = "      " end
  for i, row in ipairs(rows) do
    local left = {}
    for j = 1, count - 1 do left[j] = (row[j] or "") .. (" "):rep(widths[j] - width(row[j] or "")) end
    local first = "  " .. table.concat(left, "  ") .. "  "
    local text = M.fill(row[count] or "", room, indent)
    for line in (beside and first .. text or first .. "\n" .. indent .. text):gmatch("[^\n]+") do
      line = line:gsub("%s+$", "")
      if line ~= "" then lines[#lines + 1] = i == 1 and head(line) or line end
    end
  end
  return table.concat(lines, "\n")
end

--- Rows { left, right } as two columns, the right one folded; a left cell wider than `most` has lines of its own.
function M.pairs(rows, most)
  local col, lines = 0, {}
  for _, r in ipairs(rows) do
    if width(r[1]) <= most then col = math.max(col, width(r[1])) end
  end
  for _, r in ipairs(rows) do
    local left, gap = "  " .. r[1], col - width(r[1])
    if gap < 0 then
      lines[#lines + 1], left, gap = M.command(left, ""), "  ", col
    end
    for i, text in ipairs(filled(words(r[2]), WIDTH - col - 4)) do
      lines[#lines + 1] = (i == 1 and left .. (" "):rep(gap) or (" "):rep(col + 2)) .. "  " .. text
    end
  end
  return table.concat(lines, "\n")
end

-- A command's words as a shell splits them, quotes kept; an option stays with its value.
local function shell_pieces(text)
  local list, at = {}, 1
  while at <= #text do
    local from, quote = at, nil
    while at <= #text do
      local c = text:sub(at, at)
      if c == quote then quote = nil elseif not quote and c:find("[\"']") then quote = c end
      if c == " " and not quote then break end
      at = at + 1
    end
    local piece, last = text:sub(from, at - 1), list[#list]
    if last and last:find("^%-%-[%w-]+$") and not piece:find("^%-%-") then
      list[#list] = last .. " " .. piece
    elseif piece ~= "" then
      list[#list + 1] = piece
    end
    at = at + 1
  end
  return list
end

--- A command that may be pasted as it is printed, on as many lines as it needs. Not one with a comment, and no table.
function M.command(text, joint)
  if width(text) <= WIDTH or text:find(" # ", 1, true) or text:find("%S   +%S") then return text end
  local indent = text:match("^ *")
  return indent .. table.concat(filled(shell_pieces(text), WIDTH - #indent - 6), (joint or " \\") .. "\n" .. indent .. "    ")
end

--- A help text: paragraphs are filled, commands that are too long are continued, tables stay as they are.
function M.text(text)
  local out, prose = {}, {}
  local function flush()
    table.move(filled(prose, WIDTH), 1, #filled(prose, WIDTH), #out + 1, out)
    prose = {}
  end
  for line in text:gsub(" *\\\n *", "\0"):gmatch("([^\n]*)\n") do
    local one = line:gsub("%z", " ")
    if one:find("^%S") then
      table.move(words(one), 1, #words(one), #prose + 1, prose)
    else
      flush()
      local kept = line:gsub("%z", " \\\n      ")
      local fits = true
      for part in (kept .. "\n"):gmatch("([^\n]*)\n") do fits = fits and width(part) <= WIDTH end
      out[#out + 1] = fits and kept or M.command(one)
    end
  end
  flush()
  return table.concat(out, "\n") .. "\n"
end

return M
