# shellcheck shell=bash
# One function for each benchmark: what it reads, how it is asked, what is made of the answers. A recipe sources this file
# with its own arguments and calls the function of its name; see EVAL.md for where the data comes from.
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

vqav2() {
    local data=$DATA_DIR/vqav2 split=llava_vqav2_mscoco_test-dev2015
    need "$data/$split.jsonl" "$data/test2015" "$data/llava_vqav2_mscoco_test2015.jsonl"
    answer "$split" llava.eval.model_vqa_loader "$data/$split.jsonl" --image-folder "$data/test2015"
    convert convert_vqav2_for_submission "$DIR/merge.upload.json" --dir "$data" --split "$split" \
        --result-file "$DIR/merge.jsonl" --result-upload-file "$DIR/merge.upload.json"
}

gqa() {
    local data=$DATA_DIR/gqa split=llava_gqa_testdev_balanced
    need "$data/$split.jsonl" "$data/data/images" "$data/data/questions/testdev_balanced_questions.json"
    answer "$split" llava.eval.model_vqa_loader "$data/$split.jsonl" --image-folder "$data/data/images"
    convert convert_gqa_for_eval "$DIR/testdev_balanced_predictions.json" --src "$DIR/merge.jsonl" \
        --dst "$DIR/testdev_balanced_predictions.json"
    score llava.eval.eval_gqa --annotation-file "$data/data/questions/testdev_balanced_questions.json"
}

vizwiz() {
    local data=$DATA_DIR/vizwiz
    need "$data/llava_test.jsonl" "$data/test"
    answer llava_test llava.eval.model_vqa_loader "$data/llava_test.jsonl" --image-folder "$data/test"
    convert convert_vizwiz_for_submission "$DIR/merge.upload.json" --annotation-file "$data/llava_test.jsonl" \
        --result-file "$DIR/merge.jsonl" --result-upload-file "$DIR/merge.upload.json"
}

sqa() {
    local data=$DATA_DIR/scienceqa split=llava_test_CQM-A
    need "$data/$split.json" "$data/images/test" "$data/problems.json" "$data/pid_splits.json"
    answer "$split" llava.eval.model_vqa_science "$data/$split.json" --image-folder "$data/images/test" \
        --single-pred-prompt
    score llava.eval.eval_science_qa --base-dir "$data" --output-file "$DIR/merge.output.json" \
        --output-result "$DIR/merge.result.json"
}

textvqa() {
    local data=$DATA_DIR/textvqa split=llava_textvqa_val_v051_ocr
    need "$data/$split.jsonl" "$data/train_images" "$data/TextVQA_0.5.1_val.json"
    answer "$split" llava.eval.model_vqa_loader "$data/$split.jsonl" --image-folder "$data/train_images"
    score llava.eval.eval_textvqa --annotation-file "$data/TextVQA_0.5.1_val.json"
}

pope() {
    local data=$DATA_DIR/pope split=llava_pope_test
    need "$data/$split.jsonl" "$data/val2014" "$data/coco"
    answer "$split" llava.eval.model_vqa_loader "$data/$split.jsonl" --image-folder "$data/val2014"
    score llava.eval.eval_pope --annotation-dir "$data/coco" --question-file "$data/$split.jsonl"
}

mme() {
    local data=$DATA_DIR/MME
    need "$data/llava_mme.jsonl" "$data/MME_Benchmark_release_version"
    answer llava_mme llava.eval.model_vqa_loader "$data/llava_mme.jsonl" \
        --image-folder "$data/MME_Benchmark_release_version"
    score llava.eval.eval_mme --data-dir "$data/MME_Benchmark_release_version"
}

# of_mmbench SPLIT LANGUAGE
of_mmbench() {
    local table=$DATA_DIR/mmbench/$1.tsv
    need "$table"
    answer "$1" llava.eval.model_vqa_mmbench "$table" --single-pred-prompt --lang "$2"
    score llava.eval.eval_mmbench --annotation-file "$table"
    convert convert_mmbench_for_submission "$DIR/merge.xlsx" --annotation-file "$table" --result-dir "$DIR" \
        --upload-dir "$DIR" --experiment merge
}

mmbench() {
    of_mmbench mmbench_dev_20230712 en
}

mmbench_cn() {
    of_mmbench mmbench_dev_cn_20231003 cn
}

mmvet() {
    local data=$DATA_DIR/mm-vet
    need "$data/llava-mm-vet.jsonl" "$data/images"
    answer llava-mm-vet llava.eval.model_vqa "$data/llava-mm-vet.jsonl" --image-folder "$data/images"
    convert convert_mmvet_for_eval "$DIR/merge.upload.json" --src "$DIR/merge.jsonl" --dst "$DIR/merge.upload.json"
}

seed() {
    local data=$DATA_DIR/seed_bench
    need "$data/llava-seed-bench.jsonl" "$data/SEED-Bench.json"
    answer llava-seed-bench llava.eval.model_vqa_loader "$data/llava-seed-bench.jsonl" --image-folder "$data"
    convert convert_seed_for_submission "$DIR/merge.upload.jsonl" --annotation-file "$data/SEED-Bench.json" \
        --result-file "$DIR/merge.jsonl" --result-upload-file "$DIR/merge.upload.jsonl"
    score llava.eval.eval_seed --annotation-file "$data/SEED-Bench.json"
}
