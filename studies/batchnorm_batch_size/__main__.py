from studies.batchnorm_batch_size.study import main

main()
